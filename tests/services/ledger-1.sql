-- A ledger of version 1: two leases, one of them with devices, one that was released, an image.
BEGIN TRANSACTION;
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
INSERT INTO "history" VALUES(1,'id3',1767225603,'hub','eve','','GPU-2',2520,'2026-01-01T00:00:00.000000+00:00',NULL,'2026-01-01T00:00:00.000000+00:00');
CREATE TABLE image (recipe TEXT PRIMARY KEY, id TEXT NOT NULL);
INSERT INTO "image" VALUES('recipe','sha256:1');
CREATE TABLE incarnation (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, started TEXT NOT NULL
);
INSERT INTO "incarnation" VALUES(1,'id0','2026-01-01T00:00:00.000000+00:00');
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
    warned INTEGER NOT NULL,
    changed TEXT,
    incarnation TEXT NOT NULL,
    container TEXT,
    container_name TEXT NOT NULL,
    request TEXT NOT NULL,
    host TEXT NOT NULL,
    UNIQUE (hub, user, server)
);
INSERT INTO "lease" VALUES('id1',1767225601,'hub','ada','','bound',5040,'2026-01-01T00:00:00.000000+00:00','2026-01-01T02:00:00.000000+00:00',2.0,1,'2026-01-01T00:00:00.000000+00:00','id0','c0ffee','ds01.ada','{"count": 2, "kind": "any", "architectures": null, "hours": 2}','local');
INSERT INTO "lease" VALUES('id2',1767225602,'hub','bob','','reserved',0,'2026-01-01T00:00:00.000000+00:00',NULL,NULL,0,'2026-01-01T00:00:00.000000+00:00','id0',NULL,'ds01.bob','{"count": 0, "kind": "any", "architectures": null, "hours": null}','local');
CREATE TABLE lease_device (
    device TEXT PRIMARY KEY,
    lease TEXT NOT NULL REFERENCES lease (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    host TEXT NOT NULL
);
INSERT INTO "lease_device" VALUES('GPU-0','id1',0,'local');
INSERT INTO "lease_device" VALUES('GPU-1','id1',1,'local');
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "meta" VALUES('simulated','1');
INSERT INTO "meta" VALUES('generation','1767225603');
CREATE INDEX lease_device_of_lease ON lease_device (lease);
CREATE INDEX history_of_lease ON history (lease);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('incarnation',1);
INSERT INTO "sqlite_sequence" VALUES('history',1);
COMMIT;
PRAGMA application_id=1146302513;
PRAGMA user_version=1;
