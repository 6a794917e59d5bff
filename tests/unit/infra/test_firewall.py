"""Saving and restoring the packet filter, without one."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra import firewall

RULES = "*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n"


class PacketFilter:
    """Stand-in for the programs that read and write rules."""

    def __init__(self) -> None:
        self.rules = {"iptables": RULES, "ip6tables": ""}

    def run(self, command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
        family, _, action = command[0].partition("-")
        if action == "restore":
            self.rules[family] = text
        return subprocess.CompletedProcess(command, 0, stdout=self.rules[family])


@pytest.fixture
def packet_filter(monkeypatch: pytest.MonkeyPatch) -> PacketFilter:
    found = PacketFilter()
    monkeypatch.setattr(firewall, "run", found.run)
    return found


def test_rules_that_were_there_come_back_and_tables_that_were_not_used_are_emptied(
    packet_filter: PacketFilter, tmp_path: Path
) -> None:
    firewall.save(tmp_path / "firewall")
    packet_filter.rules = {"iptables": "-A FORWARD -j DOCKER", "ip6tables": "-A FORWARD -j DOCKER"}
    firewall.restore(tmp_path / "firewall")

    for family, before in (("iptables", RULES), ("ip6tables", "")):
        assert packet_filter.rules[family] == firewall.EMPTY + before
    assert "*mangle\n:PREROUTING ACCEPT\n" in firewall.EMPTY and firewall.EMPTY.count("COMMIT\n") == 3
    assert list(tmp_path.iterdir()) == []


def test_a_second_save_keeps_the_rules_of_the_first(packet_filter: PacketFilter, tmp_path: Path) -> None:
    firewall.save(tmp_path / "firewall")
    packet_filter.rules["iptables"] = "-A FORWARD -j DOCKER"
    firewall.save(tmp_path / "firewall")
    firewall.restore(tmp_path / "firewall")

    assert packet_filter.rules["iptables"].endswith(RULES)


def test_nothing_is_restored_that_was_not_saved(packet_filter: PacketFilter, tmp_path: Path) -> None:
    firewall.restore(tmp_path / "firewall")

    assert packet_filter.rules["iptables"] == RULES
