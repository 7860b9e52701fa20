"""Print the events of a queue: first what the stream holds, then live."""

import argparse
import asyncio
import json
import os
import secrets
from pathlib import Path

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--queue", default="*", help="a queue's name; * is all queues")
    options.add_argument("--count", type=int, default=0, help="stop after so many events; 0: never")
    options.add_argument("--consumer", default="", help="name of the consumer on the server; default: the user's")
    asked = options.parse_args()

    user, login, domain = os.environ.get("SHOAL_NATS_USER", ""), {}, None
    if user:
        login = {"user": user, "password": Path(os.environ["SHOAL_NATS_PASSWORD_FILE"]).read_text().strip()}
        # The stream is in an account of Shoal's.
        domain = "SHOAL"
    bus = await nats.connect(os.environ["SHOAL_NATS_URL"], inbox_prefix=f"_INBOX_{user}" if user else "_INBOX", **login)
    try:
        stream = bus.jetstream(domain=domain)
        # A team's user has consumers of its own name, and of that with _1 to _7, with one filter each.
        name = asked.consumer or (user if user and user != "user" else f"example-{secrets.token_hex(6)}")
        config = ConsumerConfig(
            name=name,
            filter_subject=f"shoal.v1.event.*.{asked.queue}.>",
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.ALL,
        )
        await stream.add_consumer("SHOAL_EVENT", config)
        events = await stream.pull_subscribe_bind(name, "SHOAL_EVENT")
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
