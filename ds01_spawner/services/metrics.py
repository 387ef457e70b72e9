"""Prometheus metrics, on the hub's own /hub/metrics; no user names in labels."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)

PHASE_SECONDS = Histogram(
    "ds01_phase_seconds", "How long a phase of a start took", ["phase", "outcome"], buckets=_SECONDS
)
STARTS = Counter("ds01_starts_total", "Starts by how they ended", ["outcome"])
REFUSALS = Counter("ds01_refusals_total", "Starts refused, by error code", ["code"])
EVENTS = Counter("ds01_events_total", "Lines of the event log", ["event"])
EVENTS_LOST = Counter("ds01_events_lost_total", "Lines that the event log could not take")
DEVICES = Gauge("ds01_devices", "Devices by state", ["state"])
LEASES = Gauge("ds01_leases", "Live leases by state", ["state"])
TICKETS = Gauge("ds01_tickets", "Servers that wait in the line for GPUs")
WAIT_SECONDS = Histogram(
    "ds01_wait_seconds",
    "How long a ticket waited for its offer",
    buckets=(*_SECONDS, 10_000, 100_000),
)
RELOAD_ERRORS = Counter("ds01_reload_errors_total", "Bad edits kept out", ["file"])
RECONCILE_ACTIONS = Counter("ds01_reconcile_actions_total", "What reconcile did", ["action"])
UNKNOWN_POLLS = Counter("ds01_unknown_polls_total", "Polls that the engine did not answer")
