/* A libnvidia-ml.so.1 for tests, with what the probe calls and nothing else.
 *
 * It answers from the text file that FAKE_NVML_STATE names, one record a line, names with '_' for
 * spaces:
 *
 *   init CODE                                        what nvmlInit returns
 *   driver VERSION
 *   cuda NUMBER                                      1000 * major + 10 * minor
 *   gpu UUID NAME MAJOR MINOR MIB MIG PENDING LOST   the next card; the last three are 0 or 1
 *   mig SLOT UUID NAME MIB SLICES                    an instance of the last card
 *   hang FUNCTION                                    that call does not return
 *   say TEXT                                         printed on stdout at init, as libraries do
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    GPU_IS_LOST = 15,
};
enum { CARDS = 16, SLOTS = 8, NAME = 96 };

typedef struct {
    char uuid[NAME], name[NAME];
    unsigned long long mib;
    unsigned slices;
    int used;
    int lost;
} Device;

typedef struct {
    Device whole;
    Device slots[SLOTS];
    int major, minor, mig, pending;
} Card;

static Card cards[CARDS];
static unsigned count;
static int initialized, init_code, cuda = 12080;
static char driver[NAME] = "570.124.06", hanging[NAME];

static void spaces(char *text) {
    for (; *text; text++)
        if (*text == '_') *text = ' ';
}

static void read_line(const char *line) {
    Card card = {0};
    Device d = {0};
    unsigned slot;
    char text[NAME];
    if (sscanf(line, "init %d", &init_code) == 1 || sscanf(line, "cuda %d", &cuda) == 1 ||
        sscanf(line, "driver %95s", driver) == 1 || sscanf(line, "hang %95s", hanging) == 1)
        return;
    if (sscanf(line, "say %95s", text) == 1) {
        puts(text);
        fflush(stdout);
    } else if (sscanf(line, "gpu %95s %95s %d %d %llu %d %d %d", card.whole.uuid, card.whole.name,
                      &card.major, &card.minor, &card.whole.mib, &card.mig, &card.pending,
                      &card.whole.lost) == 8 && count < CARDS) {
        spaces(card.whole.name);
        cards[count++] = card;
    } else if (sscanf(line, "mig %u %95s %95s %llu %u", &slot, d.uuid, d.name, &d.mib,
                      &d.slices) == 5 && count && slot < SLOTS) {
        spaces(d.name);
        d.used = 1;
        cards[count - 1].slots[slot] = d;
    }
}

static int enter(const char *function) {
    while (!strcmp(hanging, function)) sleep(60);
    return initialized ? SUCCESS : UNINITIALIZED;
}

static int copy(char *out, unsigned size, const char *text) {
    if (strlen(text) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return SUCCESS;
}

static Card *card_of(const Device *device) {
    for (unsigned i = 0; i < count; i++)
        if (device == &cards[i].whole || (device >= cards[i].slots && device < cards[i].slots + SLOTS))
            return &cards[i];
    return NULL;
}

#define ENTER                                \
    do {                                     \
        int code_ = enter(__func__);         \
        if (code_ != SUCCESS) return code_;  \
    } while (0)
#define ENTER_DEVICE(device)                                  \
    ENTER;                                                    \
    Card *card = card_of(device);                             \
    if (!card) return INVALID_ARGUMENT;                       \
    if (card->whole.lost) return GPU_IS_LOST

int nvmlInitWithFlags(unsigned flags) {
    char line[512];
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    (void)flags;
    while (file && fgets(line, sizeof line, file)) read_line(line);
    if (file) fclose(file);
    initialized = 1;
    enter(__func__);
    initialized = init_code == SUCCESS;
    return init_code;
}

const char *nvmlErrorString(int code) {
    static char text[32];
    snprintf(text, sizeof text, "error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    ENTER;
    return copy(out, size, driver);
}

int nvmlSystemGetCudaDriverVersion(int *out) {
    ENTER;
    *out = cuda;
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *out) {
    ENTER;
    *out = count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **out) {
    ENTER;
    if (index >= count) return INVALID_ARGUMENT;
    if (cards[index].whole.lost) return GPU_IS_LOST;
    *out = &cards[index].whole;
    return SUCCESS;
}

int nvmlDeviceGetUUID(Device *device, char *out, unsigned size) {
    ENTER_DEVICE(device);
    return copy(out, size, device->uuid);
}

int nvmlDeviceGetName(Device *device, char *out, unsigned size) {
    ENTER_DEVICE(device);
    return copy(out, size, device->name);
}

int nvmlDeviceGetMemoryInfo(Device *device, unsigned long long *out) {
    ENTER_DEVICE(device);
    out[0] = out[1] = device->mib << 20; /* total, free */
    out[2] = 0;                          /* used */
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    ENTER_DEVICE(device);
    *major = card->major;
    *minor = card->minor;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    ENTER_DEVICE(device);
    if (card->major < 8 || card->minor) return NOT_SUPPORTED;
    *current = card->mig;
    *pending = card->pending;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *out) {
    ENTER_DEVICE(device);
    *out = card->mig ? SLOTS - 1 : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **out) {
    ENTER_DEVICE(device);
    if (index >= SLOTS || !card->slots[index].used) return NOT_FOUND;
    *out = &card->slots[index];
    return SUCCESS;
}

int nvmlDeviceGetAttributes_v2(Device *device, void *out) {
    struct {
        unsigned multiprocessors, copy, decoder, encoder, jpeg, ofa, gpu_slices, compute_slices;
        unsigned long long mib;
    } answer = {0};
    ENTER_DEVICE(device);
    if (device == &card->whole) return NOT_SUPPORTED;
    answer.gpu_slices = answer.compute_slices = device->slices;
    answer.mib = device->mib;
    memcpy(out, &answer, sizeof answer);
    return SUCCESS;
}
