"""The ledger's tables, as SQL: version 2, and what makes it of version 1.

The invariants are in the tables: a seat of a device is the primary key of its grant, so that the
database itself refuses to give it out twice (a device that is not shared has one seat); rows of a
lease are deleted when it is released.
"""

APPLICATION_ID = 0x44533031  # "DS01"
VERSION = 2

_LEASES = """
CREATE TABLE lease (
    id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL UNIQUE,
    hub TEXT NOT NULL,
    user TEXT NOT NULL,
    server TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'bound', 'releasing')),
    units INTEGER NOT NULL CHECK (units >= 0),
    since TEXT NOT NULL,
    until TEXT,
    hours REAL,
    idle_h REAL,
    hold_h REAL,
    keep_until TEXT,
    busy TEXT,
    heard TEXT,
    looked TEXT,
    used_h REAL,
    lost TEXT,
    warned TEXT,
    changed TEXT,
    incarnation TEXT NOT NULL,
    container TEXT,
    container_name TEXT NOT NULL,
    request TEXT NOT NULL,
    host TEXT NOT NULL,
    UNIQUE (hub, user, server)
);
CREATE TABLE lease_device (
    device TEXT NOT NULL,
    seat INTEGER NOT NULL,
    seats INTEGER NOT NULL,
    lease TEXT NOT NULL REFERENCES lease (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    card TEXT NOT NULL,
    host TEXT NOT NULL,
    PRIMARY KEY (device, seat),
    CHECK (seat >= 0 AND seat < seats)
);
CREATE TRIGGER one_way_of_sharing BEFORE INSERT ON lease_device
WHEN EXISTS (SELECT 1 FROM lease_device WHERE device = NEW.device AND seats != NEW.seats)
BEGIN SELECT RAISE(ABORT, 'a device is shared in one way'); END;
CREATE INDEX lease_device_of_lease ON lease_device (lease);
"""
_FIRST = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE incarnation (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, started TEXT NOT NULL
);
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    lease TEXT NOT NULL,
    generation INTEGER NOT NULL,
    hub TEXT NOT NULL,
    user TEXT NOT NULL,
    server TEXT NOT NULL,
    devices TEXT NOT NULL,
    units INTEGER NOT NULL,
    since TEXT NOT NULL,
    until TEXT,
    released TEXT NOT NULL
);
CREATE INDEX history_of_lease ON history (lease);
CREATE TABLE image (recipe TEXT PRIMARY KEY, id TEXT NOT NULL);
"""
_MARKS = """
CREATE TABLE cordon (device TEXT PRIMARY KEY, since TEXT NOT NULL, why TEXT NOT NULL);
ALTER TABLE history ADD COLUMN used_h REAL;
CREATE INDEX history_by_release ON history (released);
CREATE INDEX history_of_user ON history (hub, user, released);
"""
# What is offered to a ticket is nobody else's until the offer ends, which the tables see to. One
# whose server starts waits no more, but is there until that runs: `lease` is the start's.
_LINE = """
CREATE TABLE ticket (
    id TEXT PRIMARY KEY,
    hub TEXT NOT NULL,
    user TEXT NOT NULL,
    server TEXT NOT NULL,
    wish TEXT NOT NULL,
    options TEXT NOT NULL,
    hours REAL,
    since TEXT NOT NULL,
    asked TEXT NOT NULL,
    lapses INTEGER NOT NULL,
    bypassed INTEGER NOT NULL,
    offer_until TEXT,
    offer_units INTEGER,
    host TEXT NOT NULL,
    lease TEXT,
    UNIQUE (hub, user, server),
    CHECK (lease IS NULL OR offer_until IS NULL),
    CHECK ((offer_until IS NULL) = (offer_units IS NULL))
);
CREATE VIEW waiting AS SELECT * FROM ticket WHERE lease IS NULL;
CREATE TABLE ticket_device (
    device TEXT NOT NULL,
    seat INTEGER NOT NULL,
    seats INTEGER NOT NULL,
    ticket TEXT NOT NULL REFERENCES ticket (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    host TEXT NOT NULL,
    PRIMARY KEY (device, seat),
    CHECK (seat >= 0 AND seat < seats)
);
CREATE INDEX ticket_device_of_ticket ON ticket_device (ticket);
CREATE TABLE hold (
    device TEXT PRIMARY KEY,
    hub TEXT NOT NULL,
    user TEXT NOT NULL,
    until TEXT NOT NULL,
    host TEXT NOT NULL
);
CREATE TRIGGER an_offer_is_kept BEFORE INSERT ON lease_device
WHEN EXISTS (
    SELECT 1 FROM ticket_device
    WHERE device = NEW.device AND (seat = NEW.seat OR seats != NEW.seats)
)
BEGIN SELECT RAISE(ABORT, 'the device is offered to a ticket'); END;
CREATE TRIGGER no_offer_of_a_lease BEFORE INSERT ON ticket_device
WHEN EXISTS (
    SELECT 1 FROM lease_device
    WHERE device = NEW.device AND (seat = NEW.seat OR seats != NEW.seats)
)
BEGIN SELECT RAISE(ABORT, 'the device is in a lease'); END;
CREATE TRIGGER one_way_of_offering BEFORE INSERT ON ticket_device
WHEN EXISTS (SELECT 1 FROM ticket_device WHERE device = NEW.device AND seats != NEW.seats)
BEGIN SELECT RAISE(ABORT, 'a device is shared in one way'); END;
"""
# What XIDs put out of use, in which boot; and faults of programs, with who answers for them.
_FAULTS = """
CREATE TABLE strike (
    device TEXT PRIMARY KEY, xid INTEGER NOT NULL, since TEXT NOT NULL, boot TEXT NOT NULL
);
CREATE TABLE fault (
    device TEXT NOT NULL,
    xid INTEGER NOT NULL,
    at TEXT NOT NULL,
    hub TEXT NOT NULL,
    user TEXT NOT NULL,
    PRIMARY KEY (device, xid, at)
);
CREATE INDEX fault_of_user ON fault (hub, user);
"""
# What users have started: the image by its name, and the options that start it again.
_ENVIRONMENTS = """
CREATE TABLE environment (
    hub TEXT NOT NULL,
    user TEXT NOT NULL,
    image TEXT NOT NULL,
    recipe TEXT NOT NULL,
    project TEXT NOT NULL,
    contents TEXT NOT NULL,
    options TEXT NOT NULL,
    used TEXT NOT NULL,
    host TEXT NOT NULL,
    PRIMARY KEY (hub, user, image)
);
"""
# Ends that were moved, of leases that are yet to be put back after the ledger was lost.
_MOVED = """
CREATE TABLE moved_end (lease TEXT PRIMARY KEY, until TEXT, keep_until TEXT);
"""
_LEASES_ASIDE = """
ALTER TABLE lease RENAME TO lease_1;
ALTER TABLE lease_device RENAME TO device_1;
DROP INDEX lease_device_of_lease;
"""
_LEASES_BACK = """
INSERT INTO lease SELECT id, generation, hub, user, server, state, units, since, until, hours,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, CASE warned WHEN 1 THEN until END, changed,
    incarnation, container, container_name, request, host FROM lease_1;
INSERT INTO lease_device SELECT device, 0, 1, lease, position, device, host FROM device_1;
DROP TABLE device_1;
DROP TABLE lease_1;
"""
# All that version 2 adds to the leases.
_OF_2 = _MARKS + _LINE + _FAULTS + _MOVED + _ENVIRONMENTS
TABLES = _LEASES + _FIRST + _OF_2
UPGRADES = {  # what makes version N of version N - 1
    2: _LEASES_ASIDE + _LEASES + _LEASES_BACK + _OF_2,
}
