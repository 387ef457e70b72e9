/* A libnvidia-ml.so.1 for tests, with what the probe calls and nothing else.
 *
 * It answers from a text file: see fake_nvml_state.h.
 *
 * As with the real one, which cards there are is learned at init: one that comes later is not seen,
 * and one that was lost or went away stays lost. -DOLD_DRIVER leaves out what came with R510 and
 * later. -DSIZES='"file"' includes what checks the layouts against the bindings.
 */
#include "fake_nvml_layouts.h"
#include "fake_nvml_state.h"
#include <pthread.h>
#include <stddef.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
    GPU_IS_LOST = 15,
    VERSION_MISMATCH = 25,
};
enum { SWITCH = CARDS };

/* ---- the session ---- */

/* What a caller has in hand: a card or an instance, by its UUID, in this session of the library. */
typedef struct {
    char uuid[NAME], card[NAME];
} Handle;
typedef struct {
    unsigned long long types[CARDS];
    unsigned long last;
} EventSet;
typedef struct {
    unsigned utilization;
} Sample;

static Handle handles[CARDS][SLOTS + 1];
static int lost_here[CARDS];
static unsigned opened;
static int initialized;
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

/* ---- what every call begins with ---- */

static int enter(const char *function) {
    pthread_mutex_lock(&one);
    refresh();
    while (!strcmp(state.hanging, function)) {
        pthread_mutex_unlock(&one); /* others may go on */
        usleep(10000);
        pthread_mutex_lock(&one);
        refresh();
    }
    return initialized ? SUCCESS : UNINITIALIZED;
}

static int leave(int code) {
    pthread_mutex_unlock(&one);
    return code;
}

/* The card of a handle, and its device; a code where they cannot be asked. */
static int find(const char *function, const Handle *handle, Card **card, Device **device) {
    unsigned index = (unsigned)((handle - handles[0]) / (SLOTS + 1));
    if (handle < handles[0] || index >= opened) return INVALID_ARGUMENT;
    *card = card_called(handle->card);
    if (!*card || (*card)->lost) lost_here[index] = 1;
    if (lost_here[index]) return GPU_IS_LOST;
    *device = device_called(handle->uuid);
    if (!*device) return INVALID_ARGUMENT;
    for (unsigned i = 0; i < state.failure_count; i++)
        if (!strcmp(state.failures[i].function, function) &&
            !strcmp(state.failures[i].uuid, handle->uuid))
            return state.failures[i].code;
    return SUCCESS;
}

#define ENTER                                      \
    do {                                           \
        int code_ = enter(__func__);               \
        if (code_ != SUCCESS) return leave(code_); \
    } while (0)
#define ENTER_DEVICE(handle)                                              \
    Card *card = NULL;                                                    \
    Device *device = NULL;                                                \
    ENTER;                                                                \
    do {                                                                  \
        int found_ = find(__func__, handle, &card, &device);              \
        if (found_ != SUCCESS) return leave(found_);                      \
    } while (0)
#define IS_WHOLE (device == &card->devices[WHOLE])

static int copy(char *out, unsigned size, const char *text) {
    if (strlen(text) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return SUCCESS;
}

/* ---- the library ---- */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    enter(__func__);
    if (*state.say) {
        puts(state.say);
        fflush(stdout);
    }
    initialized = state.init_code == SUCCESS;
    opened = state.card_count;
    memset(lost_here, 0, sizeof lost_here);
    memset(handles, 0, sizeof handles);
    for (unsigned i = 0; i < opened; i++) {
        strcpy(handles[i][WHOLE].uuid, state.cards[i].devices[WHOLE].uuid);
        strcpy(handles[i][WHOLE].card, handles[i][WHOLE].uuid);
    }
    return leave(state.init_code);
}

const char *nvmlErrorString(int code) {
    static char text[32];
    snprintf(text, sizeof text, "error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    ENTER;
    return leave(copy(out, size, state.driver));
}

int nvmlSystemGetCudaDriverVersion(int *out) {
    ENTER;
    *out = state.cuda;
    return leave(SUCCESS);
}

int nvmlDeviceGetCount_v2(unsigned *out) {
    ENTER;
    *out = opened;
    return leave(SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle **out) {
    Card *card;
    Device *device;
    ENTER;
    if (index >= opened) return leave(INVALID_ARGUMENT);
    *out = &handles[index][WHOLE];
    return leave(find(__func__, *out, &card, &device));
}

int nvmlDeviceGetUUID(Handle *handle, char *out, unsigned size) {
    ENTER_DEVICE(handle);
    return leave(copy(out, size, device->uuid));
}

int nvmlDeviceGetName(Handle *handle, char *out, unsigned size) {
    ENTER_DEVICE(handle);
    return leave(copy(out, size, device->name));
}

int nvmlDeviceGetPciInfo_v3(Handle *handle, nvmlPciInfo_t *out) {
    ENTER_DEVICE(handle);
    memset(out, 0, sizeof *out);
    snprintf(out->busId, sizeof out->busId, "00000000:%02X:00.0", (unsigned)(card - state.cards));
    return leave(SUCCESS);
}

int nvmlDeviceGetMemoryInfo(Handle *handle, c_nvmlMemory_t *out) {
    ENTER_DEVICE(handle);
    out->total = device->mib << 20;
    out->used = (device->used + device->reserved) << 20;
    out->free = out->total - out->used;
    return leave(SUCCESS);
}

int nvmlDeviceGetCudaComputeCapability(Handle *handle, int *major, int *minor) {
    ENTER_DEVICE(handle);
    *major = card->major;
    *minor = card->minor;
    return leave(SUCCESS);
}

int nvmlDeviceGetUtilizationRates(Handle *handle, c_nvmlUtilization_t *out) {
    ENTER_DEVICE(handle);
    if (card->mig) return leave(NOT_SUPPORTED);
    out->gpu = device->utilization;
    out->memory = 0;
    return leave(SUCCESS);
}

int nvmlDeviceGetMigMode(Handle *handle, unsigned *current, unsigned *pending) {
    ENTER_DEVICE(handle);
    if (card->major < 8 || card->minor) return leave(NOT_SUPPORTED);
    *current = card->mig;
    *pending = card->pending;
    return leave(SUCCESS);
}

int nvmlDeviceGetMaxMigDeviceCount(Handle *handle, unsigned *out) {
    ENTER_DEVICE(handle);
    *out = card->mig ? SLOTS - 1 : 0;
    return leave(SUCCESS);
}

int nvmlDeviceGetMigDeviceHandleByIndex(Handle *handle, unsigned slot, Handle **out) {
    ENTER_DEVICE(handle);
    if (slot >= SLOTS || !card->devices[slot].there) return leave(NOT_FOUND);
    Handle *found = handle - WHOLE + slot;
    strcpy(found->uuid, card->devices[slot].uuid);
    strcpy(found->card, handle->uuid);
    *out = found;
    return leave(SUCCESS);
}

int nvmlDeviceGetGpuInstanceId(Handle *handle, unsigned *out) {
    ENTER_DEVICE(handle);
    if (IS_WHOLE) return leave(INVALID_ARGUMENT);
    *out = device->gi;
    return leave(SUCCESS);
}

int nvmlDeviceGetComputeInstanceId(Handle *handle, unsigned *out) {
    ENTER_DEVICE(handle);
    if (IS_WHOLE) return leave(INVALID_ARGUMENT);
    *out = device->ci;
    return leave(SUCCESS);
}

int nvmlDeviceGetAttributes_v2(Handle *handle, c_nvmlDeviceAttributes *out) {
    ENTER_DEVICE(handle);
    if (IS_WHOLE) return leave(NOT_SUPPORTED);
    memset(out, 0, sizeof *out);
    out->gpuInstanceSliceCount = device->gi_slices;
    out->computeInstanceSliceCount = device->slices;
    out->memorySizeMB = device->mib;
    return leave(SUCCESS);
}

#ifndef OLD_DRIVER

int nvmlDeviceGetMemoryInfo_v2(Handle *handle, c_nvmlMemory_v2_t *out) {
    ENTER_DEVICE(handle);
    if (out->version != (sizeof *out | 2u << 24)) return leave(VERSION_MISMATCH);
    out->total = device->mib << 20;
    out->reserved = device->reserved << 20;
    out->used = device->used << 20;
    out->free = out->total - out->reserved - out->used;
    return leave(SUCCESS);
}

static int processes(const char *function, const char *kind, const Handle *handle, unsigned *count,
                     c_nvmlProcessInfo_t *out) {
    Card *card;
    Device *device;
    unsigned room = *count;
    int code = enter(function);
    if (code == SUCCESS) code = find(function, handle, &card, &device);
    if (code != SUCCESS) return leave(code);
    *count = 0;
    for (unsigned i = 0; i < state.process_count; i++) {
        Process *p = &state.processes[i];
        if (strcmp(p->uuid, handle->uuid) || strcmp(p->kind, kind)) continue;
        if (out && *count < room)
            out[*count] = (c_nvmlProcessInfo_t){
                p->pid, p->mib < 0 ? ~0ull : (unsigned long long)p->mib << 20, device->gi, device->ci};
        ++*count;
    }
    return leave(*count > (out ? room : 0) ? INSUFFICIENT_SIZE : SUCCESS);
}

int nvmlDeviceGetComputeRunningProcesses_v3(Handle *handle, unsigned *count,
                                            c_nvmlProcessInfo_t *out) {
    return processes(__func__, "compute", handle, count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Handle *handle, unsigned *count,
                                             c_nvmlProcessInfo_t *out) {
    return processes(__func__, "graphics", handle, count, out);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(Handle *handle, unsigned *count,
                                               c_nvmlProcessInfo_t *out) {
    return processes(__func__, "mps", handle, count, out);
}

int nvmlDeviceGetFieldValues(Handle *handle, int count, c_nvmlFieldValue_t *out) {
    ENTER_DEVICE(handle);
    for (int i = 0; i < count; i++) {
        int known = out[i].fieldId == 230 && card->recovery >= 0;
        out[i].nvmlReturn = known ? SUCCESS : NOT_SUPPORTED;
        out[i].valueType = 1;
        out[i].value.uiVal = known ? (unsigned)card->recovery : 0;
    }
    return leave(SUCCESS);
}

int nvmlDeviceGetRemappedRows(Handle *handle, unsigned *correctable, unsigned *uncorrectable,
                              unsigned *pending, unsigned *failure) {
    ENTER_DEVICE(handle);
    if (card->major < 8) return leave(NOT_SUPPORTED);
    *correctable = *uncorrectable = 0;
    *pending = card->rows_pending;
    *failure = card->rows_failed;
    return leave(SUCCESS);
}

/* ---- how cards are joined ---- */

int nvmlDeviceGetTopologyCommonAncestor(Handle *handle, Handle *other, unsigned *out) {
    ENTER_DEVICE(handle);
    unsigned a = card - state.cards, b = card_called(other->card) - state.cards;
    *out = 50;
    for (unsigned i = 0; i < state.link_count; i++) {
        Link *link = &state.links[i];
        if ((link->a == a && link->b == b) || (link->a == b && link->b == a)) *out = link->level;
    }
    return leave(SUCCESS);
}

/* The other end of a link: a card, SWITCH, or -1 for a link that is down. */
static int other_end(const Card *card, unsigned number) {
    unsigned self = card - state.cards;
    for (unsigned i = 0; i < state.link_count; i++) {
        Link *link = &state.links[i];
        if (link->a != self && link->b != self) continue;
        if (number < link->nvlinks) return link->a == self ? link->b : link->a;
        number -= link->nvlinks;
    }
    return number < card->switches ? SWITCH : -1;
}

int nvmlDeviceGetNvLinkState(Handle *handle, unsigned number, unsigned *out) {
    ENTER_DEVICE(handle);
    if (card->major < 8 || number >= 18) return leave(NOT_SUPPORTED);
    *out = other_end(card, number) >= 0;
    return leave(SUCCESS);
}

int nvmlDeviceGetNvLinkRemoteDeviceType(Handle *handle, unsigned number, unsigned *out) {
    ENTER_DEVICE(handle);
    *out = other_end(card, number) == SWITCH ? 2 : 0;
    return leave(SUCCESS);
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(Handle *handle, unsigned number, nvmlPciInfo_t *out) {
    ENTER_DEVICE(handle);
    memset(out, 0, sizeof *out);
    snprintf(out->busId, sizeof out->busId, "00000000:%02X:00.0",
             (unsigned)other_end(card, number));
    return leave(SUCCESS);
}

/* ---- events ---- */

int nvmlEventSetCreate(EventSet **out) {
    ENTER;
    *out = calloc(1, sizeof **out);
    return leave(SUCCESS);
}

int nvmlDeviceGetSupportedEventTypes(Handle *handle, unsigned long long *out) {
    ENTER_DEVICE(handle);
    *out = card->major < 7 ? 0 : 0x8 | 0x100 | 0x8000;
    return leave(SUCCESS);
}

int nvmlDeviceRegisterEvents(Handle *handle, unsigned long long types, EventSet *set) {
    ENTER_DEVICE(handle);
    if (!IS_WHOLE) return leave(INVALID_ARGUMENT);
    set->types[card - state.cards] |= types;
    for (unsigned i = 0; i < state.event_count; i++) /* what was before is not told */
        if (state.events[i].sequence > set->last) set->last = state.events[i].sequence;
    return leave(SUCCESS);
}

int nvmlEventSetWait_v2(EventSet *set, c_nvmlEventData_t *out, unsigned timeout_ms) {
    for (unsigned waited = 0; waited <= timeout_ms; waited += 10) {
        Event *next = NULL;
        ENTER;
        for (unsigned i = 0; i < state.failure_count; i++)
            if (!strcmp(state.failures[i].function, __func__)) return leave(state.failures[i].code);
        for (unsigned i = 0; i < state.event_count; i++) {
            Event *event = &state.events[i];
            if (event->sequence > set->last && set->types[event->card] & event->type &&
                (!next || event->sequence < next->sequence))
                next = event;
        }
        if (next) {
            set->last = next->sequence;
            *out = (c_nvmlEventData_t){&handles[next->card][WHOLE], next->type, next->data, next->gi,
                                       next->ci};
            return leave(SUCCESS);
        }
        leave(SUCCESS);
        usleep(10000);
    }
    return TIMEOUT;
}

/* ---- activity of instances ---- */

int nvmlGpmQueryDeviceSupport(Handle *handle, c_nvmlGpmSupport_t *out) {
    ENTER_DEVICE(handle);
    if (out->version != 1) return leave(VERSION_MISMATCH);
    out->isSupportedDevice = card->major >= 9;
    return leave(SUCCESS);
}

int nvmlGpmSampleAlloc(Sample **out) {
    *out = calloc(1, sizeof **out);
    return SUCCESS;
}

int nvmlGpmSampleFree(Sample *sample) {
    free(sample);
    return SUCCESS;
}

int nvmlGpmMigSampleGet(Handle *handle, unsigned gi, Sample *sample) {
    ENTER_DEVICE(handle);
    for (unsigned slot = 0; slot < SLOTS; slot++)
        if (card->devices[slot].there && card->devices[slot].gi == gi) {
            sample->utilization = card->devices[slot].utilization;
            return leave(SUCCESS);
        }
    return leave(NOT_FOUND);
}

int nvmlGpmMetricsGet(c_nvmlGpmMetricsGet_t *out) {
    if (out->version != 1) return VERSION_MISMATCH;
    for (unsigned i = 0; i < out->numMetrics; i++) {
        int known = out->metrics[i].metricId == 1;
        out->metrics[i].nvmlReturn = known ? SUCCESS : NOT_SUPPORTED;
        out->metrics[i].value = ((Sample *)out->sample2)->utilization;
    }
    return SUCCESS;
}

#endif

#ifdef SIZES
#include SIZES
#endif
