"""The node's bridge, and the few rules that let pods reach servers on 127.0.0.1. Whatever is changed can be put back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from shoal_local.node import place

MARK = "shoal-node"
"""Comment of every rule that is made here."""
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
TABLES = ("nat", "filter", "mangle", "raw")


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
    return done.stdout


def _iptables(table: str, *rule: str, check: bool = True) -> str:
    return _run("iptables", "-w", "10", "-t", table, *rule, check=check)


def _rules(api_port: int, kubelet_port: int) -> list[tuple[str, str, list[str]]]:
    """(table, chain, rule): pods and the host reach the API server at its service's address; the API server its kubelet."""
    api = ["-d", f"{place.API_SERVICE}/32", "-p", "tcp", "--dport", "443"]
    kubelet = ["-d", f"{place.ADDRESS}/32", "-p", "tcp", "--dport", str(kubelet_port)]
    comment = ["-m", "comment", "--comment", MARK]
    return [
        *(("nat", c, [*api, *comment, "-j", "DNAT", "--to", f"127.0.0.1:{api_port}"]) for c in ("PREROUTING", "OUTPUT")),
        ("nat", "OUTPUT", [*kubelet, *comment, "-j", "DNAT", "--to", f"127.0.0.1:{kubelet_port}"]),
        # Docker sets the policy of FORWARD to DROP; that must not cut the node's own bridge.
        *(("filter", "FORWARD", [way, place.BRIDGE, *comment, "-j", "ACCEPT"]) for way in ("-i", "-o")),
    ]


def up(api_port: int, kubelet_port: int) -> None:
    """Make the bridge and the rules; what was there before is noted for ``down``. Raises OSError."""
    (place.ROOT / "ip_forward").write_text(FORWARDING.read_text())
    _run("ip", "link", "add", place.BRIDGE, "type", "bridge")
    _run("ip", "addr", "add", f"{place.ADDRESS}/24", "dev", place.BRIDGE)
    _run("ip", "link", "set", place.BRIDGE, "up")
    _run("ip", "route", "replace", place.SERVICES, "dev", place.BRIDGE)
    FORWARDING.write_text("1")
    Path(f"/proc/sys/net/ipv4/conf/{place.BRIDGE}/route_localnet").write_text("1")
    for table, chain, rule in _rules(api_port, kubelet_port):
        _iptables(table, "-I", chain, "1", *rule)


def configure_cni(folder: Path) -> None:
    """Write the network that containerd gives to pods."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "10-shoal.conflist").write_text(json.dumps({
        "cniVersion": "0.4.0", "name": "shoal",
        "plugins": [{
            # No way out of the machine: nothing that is run here needs one.
            "type": "bridge", "bridge": place.BRIDGE, "isGateway": True, "ipMasq": False, "hairpinMode": True,
            "ipam": {
                "type": "host-local", "dataDir": str(place.ROOT / "addresses"),
                "ranges": [[{"subnet": place.PODS, "gateway": place.ADDRESS}]], "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    }, indent=1))  # fmt: skip


def ours(rule: str) -> bool:
    """Whether a line of ``iptables -S`` is of the node: made here, or by its kube-proxy."""
    return MARK in rule or "KUBE-" in rule


def rules() -> list[str]:
    """The rules and chains of the node that are there now, each with its table."""
    found = []
    for table in TABLES:
        lines = _iptables(table, "-S", check=False).splitlines()
        found += [f"{table}: {line}" for line in lines if ours(line)]
    return found


def down() -> None:
    """Take the rules, the route and the bridge away, and put forwarding back."""
    for table in TABLES:
        lines = [line for line in _iptables(table, "-S", check=False).splitlines() if ours(line)]
        chains = [line.split()[1] for line in lines if line.startswith("-N ")]
        # iptables-restore takes a table's changes at once, and reads the quoting of `-S` as it is.
        batch = [f"*{table}"]
        batch += ["-D" + line[2:] for line in lines if line.startswith("-A ") and line.split()[1] not in chains]
        batch += [f"-F {chain}" for chain in chains] + [f"-X {chain}" for chain in chains] + ["COMMIT", ""]
        if lines:
            subprocess.run(
                ["iptables-restore", "-w", "10", "--noflush"],
                input="\n".join(batch),
                text=True,
                capture_output=True,
                check=False,
            )
    _run("ip", "link", "del", place.BRIDGE, check=False)
    noted = place.ROOT / "ip_forward"
    if noted.exists():
        FORWARDING.write_text(noted.read_text())
        noted.unlink()
