/* What the fake driver library answers from.
 *
 * It is the text file that FAKE_NVML_STATE names, read again when it changed; one record a
 * line, names with '_' for spaces:
 *
 *   init CODE                                        what nvmlInit returns
 *   driver VERSION
 *   cuda NUMBER                                      1000 * major + 10 * minor
 *   gpu UUID NAME MAJOR MINOR MIB MIG PENDING LOST   the next card; the last three are 0 or 1
 *   mig SLOT UUID NAME MIB SLICES                    an instance of the last card
 *   ids UUID GI CI SLICES                            its numbers, and the slices of its GPU instance
 *   used UUID MIB RESERVED                           memory in use, and what the driver keeps
 *   utilization UUID PERCENT                         of an instance: what GPM tells
 *   process UUID PID MIB KIND                        compute, graphics or mps; -1 MiB: not known
 *   recovery UUID ACTION                             field 230; else this driver has none
 *   remapped UUID PENDING FAILURE
 *   link UUID UUID LEVEL NVLINKS                     between two cards
 *   switch UUID NVLINKS                              links of a card to NVSwitches
 *   event SEQ UUID TYPE DATA GI CI                   delivered once, in the order of SEQ
 *   fail FUNCTION UUID CODE                          what that call returns of that device, or of none
 *   hang FUNCTION                                    that call does not return
 *   say TEXT                                         printed on stdout at init, as libraries do
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CARDS = 16, SLOTS = 8, NAME = 96, MANY = 64, WHOLE = SLOTS };
#define ANY 0xFFFFFFFFu

typedef struct {
    char uuid[NAME], name[NAME];
    unsigned long long mib, used, reserved;
    unsigned slices, gi, ci, gi_slices, utilization;
    int there;
} Device;
typedef struct {
    Device devices[SLOTS + 1]; /* its instances, and itself */
    int major, minor, mig, pending, lost, recovery, rows_pending, rows_failed;
    unsigned switches;
} Card;
typedef struct {
    char uuid[NAME], kind[NAME];
    unsigned pid;
    long long mib;
} Process;
typedef struct {
    unsigned a, b, level, nvlinks;
} Link;
typedef struct {
    unsigned long sequence;
    unsigned card, gi, ci;
    unsigned long long type, data;
} Event;
typedef struct {
    char function[NAME], uuid[NAME];
    int code;
} Failure;
typedef struct {
    Card cards[CARDS];
    Process processes[MANY];
    Link links[MANY];
    Event events[MANY];
    Failure failures[MANY];
    unsigned card_count, process_count, link_count, event_count, failure_count;
    int init_code, cuda;
    char driver[NAME], hanging[NAME], say[NAME];
} State;

static State state;
static struct stat read_as;

static void spaces(char *text) {
    for (; *text; text++)
        if (*text == '_') *text = ' ';
}

static Card *card_called(const char *uuid) {
    for (unsigned i = 0; i < state.card_count; i++)
        if (!strcmp(state.cards[i].devices[WHOLE].uuid, uuid)) return &state.cards[i];
    return NULL;
}

static Device *device_called(const char *uuid) {
    for (unsigned i = 0; i < state.card_count; i++)
        for (unsigned slot = 0; slot <= WHOLE; slot++) {
            Device *device = &state.cards[i].devices[slot];
            if (device->there && !strcmp(device->uuid, uuid)) return device;
        }
    return NULL;
}

static void read_device(const char *line) {
    Card card = {.recovery = -1};
    Device d = {.there = 1, .gi = ANY, .ci = ANY}, *whole = &card.devices[WHOLE];
    unsigned slot;
    *whole = d;
    if (sscanf(line, "gpu %95s %95s %d %d %llu %d %d %d", whole->uuid, whole->name, &card.major,
               &card.minor, &whole->mib, &card.mig, &card.pending, &card.lost) == 8 &&
        state.card_count < CARDS) {
        spaces(whole->name);
        state.cards[state.card_count++] = card;
    } else if (sscanf(line, "mig %u %95s %95s %llu %u", &slot, d.uuid, d.name, &d.mib,
                      &d.slices) == 5 && state.card_count && slot < SLOTS) {
        spaces(d.name);
        d.gi = slot + 1;
        d.ci = 0;
        d.gi_slices = d.slices;
        state.cards[state.card_count - 1].devices[slot] = d;
    }
}

static void read_fact(const char *line) {
    char uuid[NAME], other[NAME];
    unsigned a, b, c;
    unsigned long long size, rest;
    Process p;
    Event e;
    Failure f;
    if (sscanf(line, "ids %95s %u %u %u", uuid, &a, &b, &c) == 4 && device_called(uuid)) {
        Device *d = device_called(uuid);
        d->gi = a, d->ci = b, d->gi_slices = c;
    } else if (sscanf(line, "used %95s %llu %llu", uuid, &size, &rest) == 3 && device_called(uuid)) {
        device_called(uuid)->used = size, device_called(uuid)->reserved = rest;
    } else if (sscanf(line, "utilization %95s %u", uuid, &a) == 2 && device_called(uuid)) {
        device_called(uuid)->utilization = a;
    } else if (sscanf(line, "process %95s %u %lld %95s", p.uuid, &p.pid, &p.mib, p.kind) == 4 &&
               state.process_count < MANY) {
        state.processes[state.process_count++] = p;
    } else if (sscanf(line, "recovery %95s %u", uuid, &a) == 2 && card_called(uuid)) {
        card_called(uuid)->recovery = (int)a;
    } else if (sscanf(line, "remapped %95s %u %u", uuid, &a, &b) == 3 && card_called(uuid)) {
        card_called(uuid)->rows_pending = (int)a, card_called(uuid)->rows_failed = (int)b;
    } else if (sscanf(line, "link %95s %95s %u %u", uuid, other, &a, &b) == 4 &&
               card_called(uuid) && card_called(other) && state.link_count < MANY) {
        state.links[state.link_count++] =
            (Link){card_called(uuid) - state.cards, card_called(other) - state.cards, a, b};
    } else if (sscanf(line, "switch %95s %u", uuid, &a) == 2 && card_called(uuid)) {
        card_called(uuid)->switches = a;
    } else if (sscanf(line, "event %lu %95s %llu %llu %u %u", &e.sequence, uuid, &e.type, &e.data,
                      &e.gi, &e.ci) == 6 && card_called(uuid) && state.event_count < MANY) {
        e.card = card_called(uuid) - state.cards;
        state.events[state.event_count++] = e;
    } else if (sscanf(line, "fail %95s %95s %d", f.function, f.uuid, &f.code) == 3 &&
               state.failure_count < MANY) {
        state.failures[state.failure_count++] = f;
    }
}

static void read_line(const char *line) {
    if (sscanf(line, "init %d", &state.init_code) == 1 ||
        sscanf(line, "cuda %d", &state.cuda) == 1 ||
        sscanf(line, "driver %95s", state.driver) == 1 ||
        sscanf(line, "hang %95s", state.hanging) == 1 || sscanf(line, "say %95s", state.say) == 1)
        return;
    if (!strncmp(line, "gpu ", 4) || !strncmp(line, "mig ", 4))
        read_device(line);
    else
        read_fact(line);
}

/* Read the file where it is another than before. */
static void refresh(void) {
    char line[512];
    struct stat now;
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file;
    if (!path || stat(path, &now)) return;
    if (now.st_ino == read_as.st_ino && now.st_size == read_as.st_size &&
        now.st_mtim.tv_sec == read_as.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == read_as.st_mtim.tv_nsec)
        return;
    if (!(file = fopen(path, "r"))) return;
    read_as = now;
    state = (State){.cuda = 12080, .driver = "570.124.06"};
    while (fgets(line, sizeof line, file)) read_line(line);
    fclose(file);
}
