/* A stand-in for libnvidia-ml.so.1: the calls that objectives/nvml.py makes, answered from the file that NVML_STUB names.
 *
 * A line of it is a device, whitespace between the fields and "-" for a figure that the device does not support:
 *     uuid parent total used busy_percent energy_mj pid process_used
 * `parent` is "-" for a card and the card's uuid for a MIG instance; sizes are in bytes. `pid` is a process id, "self" for the
 * caller's own, or "-" for no process. A line "refuse FUNCTION CODE" makes a function return that code.
 * The file is read anew by each call, so a test can change the figures while they are sampled.
 * Beside it, the file NAME.UUID holds the power limit of a card in milliwatts, which may be from 100 to 400 W; 300 W without it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, MAX_DEVICES = 16 };

typedef struct {
    char uuid[96], parent[96], total[32], used[32], busy[32], energy[32], pid[32], process_used[32];
} Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory_v2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;

static Device devices[MAX_DEVICES];
static int num_devices;

/* Reads the file; returns the code with which `function` is to be refused, or SUCCESS. */
static int load(const char *function) {
    char line[512], name[96];
    int code, refusal = SUCCESS;
    FILE *file = fopen(getenv("NVML_STUB"), "r");
    if (file == NULL) return 999;
    num_devices = 0;
    while (fgets(line, sizeof line, file)) {
        Device d;
        if (sscanf(line, "refuse %95s %d", name, &code) == 2) {
            if (strcmp(name, function) == 0) refusal = code;
        } else if (sscanf(line, "%95s %95s %31s %31s %31s %31s %31s %31s", d.uuid, d.parent, d.total, d.used, d.busy, d.energy,
                          d.pid, d.process_used) == 8 && num_devices < MAX_DEVICES) {
            devices[num_devices++] = d;
        }
    }
    fclose(file);
    return refusal;
}

#define ENTER(function) do { int refusal = load(function); if (refusal != SUCCESS) return refusal; } while (0)
#define FIGURE(text, target) do { if (strcmp(text, "-") == 0) return NOT_SUPPORTED; *(target) = strtoull(text, NULL, 10); } while (0)

/* A handle is the device's place in the file, from 1. */
static Device *device(void *handle) { return &devices[(size_t)handle - 1]; }

/* The place of the index-th device that stands under `parent`. */
static int find(const char *parent, unsigned index, void **handle) {
    for (int i = 0; i < num_devices; i++)
        if (strcmp(devices[i].parent, parent) == 0 && index-- == 0) {
            *handle = (void *)(size_t)(i + 1);
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; ENTER("nvmlInitWithFlags"); return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) {
    return code == NOT_SUPPORTED ? "Not Supported" : code == NOT_FOUND ? "Not Found" : code == 4 ? "Insufficient Permissions" : "Unknown Error";
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    ENTER("nvmlSystemGetDriverVersion");
    snprintf(version, length, "575.57.08");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    void *handle;
    ENTER("nvmlDeviceGetCount_v2");
    for (*count = 0; find("-", *count, &handle) == SUCCESS; ++*count) {}
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    ENTER("nvmlDeviceGetHandleByIndex_v2");
    return find("-", index, handle);
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    void *instance;
    ENTER("nvmlDeviceGetMaxMigDeviceCount");
    /* As on a real card, there are more places than instances. */
    *count = find(device(handle)->uuid, 0, &instance) == SUCCESS ? 7 : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **instance) {
    ENTER("nvmlDeviceGetMigDeviceHandleByIndex");
    return find(device(handle)->uuid, index, instance);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    ENTER("nvmlDeviceGetHandleByUUID");
    for (int i = 0; i < num_devices; i++)
        if (strcmp(devices[i].uuid, uuid) == 0) {
            *handle = (void *)(size_t)(i + 1);
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    ENTER("nvmlDeviceGetUUID");
    snprintf(uuid, length, "%s", device(handle)->uuid);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    ENTER("nvmlDeviceGetMemoryInfo");
    FIGURE(device(handle)->total, &memory->total);
    FIGURE(device(handle)->used, &memory->used);
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, Memory_v2 *memory) {
    ENTER("nvmlDeviceGetMemoryInfo_v2");
    FIGURE(device(handle)->total, &memory->total);
    FIGURE(device(handle)->used, &memory->used);
    memory->reserved = 0;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, Process *processes) {
    ENTER("nvmlDeviceGetComputeRunningProcesses_v3");
    Device *d = device(handle);
    unsigned room = *count;
    *count = strcmp(d->pid, "-") == 0 ? 0 : 1;
    for (const char *comma = d->pid; (comma = strchr(comma, ',')) != NULL; comma++) ++*count;
    if (*count == 0) return SUCCESS;
    if (room < *count) return INSUFFICIENT_SIZE;
    const char *pid = d->pid;
    for (unsigned i = 0; i < *count; i++, pid = strchr(pid, ',') + 1) {
        processes[i].pid = strncmp(pid, "self", 4) == 0 ? (unsigned)getpid() : (unsigned)atoi(pid);
        /* All bits set is NVML's "not available". */
        processes[i].used = strcmp(d->process_used, "-") == 0 ? ~0ULL : strtoull(d->process_used, NULL, 10);
        processes[i].gpu_instance = processes[i].compute_instance = ~0U;
        if (i + 1 == *count) break;
    }
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *handle, Utilization *rates) {
    ENTER("nvmlDeviceGetUtilizationRates");
    FIGURE(device(handle)->busy, &rates->gpu);
    rates->memory = 0;
    return SUCCESS;
}

static void limit_file(void *handle, char *name) { snprintf(name, 512, "%s.%s", getenv("NVML_STUB"), device(handle)->uuid); }

int nvmlDeviceGetPowerManagementLimitConstraints(void *handle, unsigned *low, unsigned *high) {
    ENTER("nvmlDeviceGetPowerManagementLimitConstraints");
    if (strcmp(device(handle)->parent, "-") != 0) return NOT_SUPPORTED;
    *low = 100000, *high = 400000;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimit(void *handle, unsigned *limit) {
    char name[512];
    ENTER("nvmlDeviceGetPowerManagementLimit");
    limit_file(handle, name);
    *limit = 300000;
    FILE *file = fopen(name, "r");
    if (file != NULL) {
        if (fscanf(file, "%u", limit) != 1) *limit = 0;
        fclose(file);
    }
    return SUCCESS;
}

int nvmlDeviceSetPowerManagementLimit(void *handle, unsigned limit) {
    char name[512];
    ENTER("nvmlDeviceSetPowerManagementLimit");
    limit_file(handle, name);
    FILE *file = fopen(name, "w");
    if (file == NULL) return 999;
    fprintf(file, "%u", limit);
    fclose(file);
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *millijoules) {
    ENTER("nvmlDeviceGetTotalEnergyConsumption");
    FIGURE(device(handle)->energy, millijoules);
    return SUCCESS;
}
