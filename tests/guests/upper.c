/* A consumer of typed records in C, by hand from guest-sdk/wit/sluicegate.wit: it puts out the values in capitals, and
 * refuses events whose value begins with '!'. No library, no SDK: the structs below are the records of the WIT in the
 * canonical ABI. Built by `cargo xtask guests` into a core module; the host makes a component of it. */
#include <stddef.h>
#include <stdint.h>

typedef struct { uint8_t *at; uint32_t length; } bytes;
typedef struct { bytes name, value; } header;
typedef struct { header *at; uint32_t length; } headers;
typedef struct { uint8_t present; bytes value; } maybe_bytes;
typedef struct { uint8_t present; int64_t value; } maybe_time;
typedef struct { uint8_t which; uint32_t index; } origin;

typedef struct {
    bytes topic;
    uint32_t partition;
    uint64_t offset;
    int64_t timestamp;
    maybe_bytes key;
    bytes value;
    headers headers;
} event;

typedef struct {
    origin origin;
    maybe_bytes sink;
    maybe_time timestamp;
    maybe_bytes key;
    bytes value;
    headers headers;
} output;

typedef struct { origin origin; uint8_t permanent; bytes reason; } failure;

typedef struct {
    uint32_t processed, fired;
    output *outputs;
    uint32_t output_count;
    failure *failures;
    uint32_t failure_count;
} outcome;

_Static_assert(sizeof(event) == 64 && sizeof(output) == 72 && sizeof(failure) == 20, "the layout of the WIT");

extern uint8_t __heap_base;
static uint8_t *next_free = &__heap_base;

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
    (void)old, (void)old_size;
    uint8_t *at = (uint8_t *)(((uintptr_t)next_free + align - 1) & ~(align - 1));
    next_free = at + size;
    while ((uintptr_t)next_free > __builtin_wasm_memory_size(0) * 65536) {
        if (__builtin_wasm_memory_grow(0, 16) == (size_t)-1) __builtin_trap();
    }
    return at;
}

static const char refused[] = "it begins with an exclamation mark";
static outcome result;

__attribute__((export_name("sluicegate:plugin/handler@1.0.0#process")))
outcome *process(event *events, uint32_t count, void *timers, uint32_t timer_count) {
    (void)timers, (void)timer_count;
    output *outputs = cabi_realloc(0, 0, 8, count * sizeof(output));
    failure *failures = cabi_realloc(0, 0, 4, count * sizeof(failure));
    uint32_t made = 0, failed = 0;
    for (uint32_t i = 0; i < count; i++) {
        bytes value = events[i].value;
        if (value.length > 0 && value.at[0] == '!') {
            failures[failed++] = (failure){{0, i}, 1, {(uint8_t *)refused, sizeof(refused) - 1}};
            continue;
        }
        for (uint32_t k = 0; k < value.length; k++)
            if (value.at[k] >= 'a' && value.at[k] <= 'z') value.at[k] -= 'a' - 'A';
        outputs[made++] = (output){{0, i}, {0}, {0}, events[i].key, value, events[i].headers};
    }
    result = (outcome){count, 0, outputs, made, failures, failed};
    /* What was allocated for this call is read by the host before the next one begins. */
    next_free = &__heap_base;
    return &result;
}
