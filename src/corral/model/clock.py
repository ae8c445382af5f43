"""The guest's clock and timers. https://libvirt.org/formatdomain.html#time-keeping"""

from __future__ import annotations

from typing import Literal

from pydantic_xml import attr, element

from corral.model.element import Element, Unsigned, YesNo


class Catchup(Element, tag="catchup"):
    threshold: Unsigned | None = attr(default=None)
    slew: Unsigned | None = attr(default=None)
    limit: Unsigned | None = attr(default=None)


class Timer(Element, tag="timer"):
    """One of the machine's timers."""

    name: Literal["platform", "hpet", "kvmclock", "hypervclock", "pit", "rtc", "tsc", "armvtimer"] = attr()
    present: YesNo | None = attr(default=None)
    tickpolicy: Literal["delay", "catchup", "merge", "discard"] | None = attr(default=None)
    track: Literal["boot", "guest", "wall", "realtime"] | None = attr(default=None)
    frequency: Unsigned | None = attr(default=None)
    mode: Literal["auto", "native", "emulate", "paravirt", "smpsafe"] | None = attr(default=None)
    catchup: Catchup | None = element(default=None)


class Clock(Element, tag="clock"):
    """Where the guest's clock starts; `adjustment` is seconds, or `reset`; `start` seconds since 1970."""

    offset: Literal["utc", "localtime", "timezone", "variable", "absolute"] = attr(default="utc")
    adjustment: str | None = attr(default=None)
    basis: Literal["utc", "localtime"] | None = attr(default=None)
    timezone: str | None = attr(default=None)
    start: int | None = attr(default=None)
    timers: list[Timer] = element(tag="timer", default_factory=list)
