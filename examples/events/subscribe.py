"""Print the events of a queue: first what the stream holds, then live."""

import argparse
import asyncio
import json
import os
from pathlib import Path

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--queue", default="*", help="a queue's name; * is all queues")
    options.add_argument("--count", type=int, default=0, help="stop after so many events; 0: never")
    asked = options.parse_args()

    login = {}
    if user := os.environ.get("SHOAL_NATS_USER"):
        login = {"user": user, "password": Path(os.environ["SHOAL_NATS_PASSWORD_FILE"]).read_text().strip()}
    bus = await nats.connect(os.environ["SHOAL_NATS_URL"], inbox_prefix="_INBOX_user", **login)
    try:
        stream = bus.jetstream()
        subject = f"shoal.v1.event.default.{asked.queue}.>"
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL)
        events = await stream.pull_subscribe(subject, stream="SHOAL_EVENT", config=config)
        seen = 0
        while not asked.count or seen < asked.count:
            try:
                batch = await events.fetch(100, timeout=5)
            except nats.errors.TimeoutError:
                continue
            for message in batch:
                event = json.loads(message.data)
                data = event["data"]
                print(
                    event["time"],
                    event["type"],
                    event["subject"],
                    data.get("node") or data.get("message", ""),
                    flush=True,
                )
                seen += 1
    finally:
        await bus.close()


if __name__ == "__main__":
    asyncio.run(main())
