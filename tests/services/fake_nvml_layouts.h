/* The layouts of NVML's interface, with the names that the bindings give types and fields. */
typedef struct {
    unsigned long long total, free, used;
} c_nvmlMemory_t;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} c_nvmlMemory_v2_t;
typedef struct {
    unsigned gpu, memory;
} c_nvmlUtilization_t;
typedef struct {
    unsigned pid;
    unsigned long long usedGpuMemory;
    unsigned gpuInstanceId, computeInstanceId;
} c_nvmlProcessInfo_t;
typedef struct {
    void *device;
    unsigned long long eventType, eventData;
    unsigned gpuInstanceId, computeInstanceId;
} c_nvmlEventData_t;
typedef struct {
    unsigned multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount,
        sharedJpegCount, sharedOfaCount, gpuInstanceSliceCount, computeInstanceSliceCount;
    unsigned long long memorySizeMB;
} c_nvmlDeviceAttributes;
typedef struct {
    unsigned fieldId, scopeId;
    long long timestamp, latencyUsec;
    unsigned valueType, nvmlReturn;
    union {
        double dVal;
        unsigned uiVal;
        unsigned long long ullVal;
    } value;
} c_nvmlFieldValue_t;
typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;
typedef struct {
    unsigned metricId, nvmlReturn;
    double value;
    struct {
        const char *shortName, *longName, *unit;
    } metricInfo;
} c_nvmlGpmMetric_t;
typedef struct {
    unsigned version, numMetrics;
    void *sample1, *sample2;
    c_nvmlGpmMetric_t metrics[1]; /* as many as numMetrics says */
} c_nvmlGpmMetricsGet_t;
typedef struct {
    unsigned version, isSupportedDevice;
} c_nvmlGpmSupport_t;
