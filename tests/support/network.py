"""A network of namespaces, in which each host has an address and a cable of its own."""

import itertools
import subprocess

NUMBERS = itertools.count()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Network:
    """A switch in a namespace of its own, to which pods are plugged in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.plugged: list[str] = []
        ip("netns", "add", name)
        ip("-n", name, "link", "add", "switch", "type", "bridge")
        ip("-n", name, "link", "set", "switch", "up")

    def plug(self) -> tuple[str, str, str]:
        """Make a namespace with a new address; return its name, address and link at the switch."""
        number = len(self.plugged) + 1
        pod, link, address = f"{self.name}-{number}", f"link{number}", f"10.77.0.{number}"
        ip("netns", "add", pod)
        self.plugged.append(pod)
        ip("-n", self.name, "link", "add", link, "type", "veth", "peer", "eth0", "netns", pod)
        ip("-n", self.name, "link", "set", link, "master", "switch", "up")
        ip("-n", pod, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", pod, "link", "set", "lo", "up")
        ip("-n", pod, "link", "set", "eth0", "up")
        return pod, address, link

    def cut(self, link: str) -> None:
        """Pull a pod's cable."""
        ip("-n", self.name, "link", "set", link, "down")

    def close(self) -> None:
        for name in [*self.plugged, self.name]:
            ip("netns", "delete", name)
