// Write Sluicegate consumers in C or C++.
//
//     #include "sluice.h"
//
//     static int shout(const sluice_event *event) {
//         return sluice_send(event->key, upper(event->value));
//     }
//
//     SLUICE_CONSUMER(.process = shout)
//
// To be included once, in the file that becomes the plugin. A consumer returns 0, or what `sluice_fail` returns: then the event has
// failed, and all that it sent, set and changed is undone; the other events go on. A consumer that cannot go on at all says `sluice_panic`.
//
// This is `guest-sdk/wit`'s world `versioned-batch-consumer` by hand. What events, outcomes and headers look like as bytes is told in `runtime/event`
// (`event.rs`, `outcome.rs`, `view.rs`) and in the WIT.
#ifndef SLUICE_H
#define SLUICE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLUICE_API static __attribute__((unused))
#define SLUICE_NORETURN_ __attribute__((noreturn))

// ---- What a consumer speaks of ----

// Bytes that belong to somebody else; `data` is NULL where there are none at all, as for an event without a key: absent and empty differ.
typedef struct {
    const uint8_t *data;
    uint32_t len;
} sluice_bytes;

// An event as a consumer gets it. What it points to is valid during the call.
typedef struct {
    sluice_bytes topic;
    uint32_t partition;
    uint64_t offset;
    int64_t timestamp; // milliseconds since the epoch, as the producer said
    sluice_bytes key;
    sluice_bytes value;
    uint16_t header_count;
    const uint8_t *headers_;
} sluice_event;

typedef struct {
    sluice_bytes name;
    sluice_bytes value;
} sluice_header;

typedef enum { SLUICE_EVENT_TIME = 0, SLUICE_WALL_CLOCK = 1 } sluice_clock;

// A timer that is due.
typedef struct {
    sluice_clock clock;
    int64_t time; // milliseconds since the epoch
    sluice_bytes key;
    sluice_bytes tag;
} sluice_timer;

// An event to be sent. What is not set is: the pipeline's first sink, the time of the event or timer in hand, no key, no headers.
typedef struct {
    const char *sink;
    bool has_timestamp;
    int64_t timestamp;
    sluice_bytes key;
    sluice_bytes value;
    const sluice_header *headers;
    uint16_t header_count;
} sluice_output;

typedef enum {
    SLUICE_TRANSIENT = 0, // trying again may help: the events behind wait
    SLUICE_PERMANENT = 1, // it never will
} sluice_failure;

typedef enum { SLUICE_TRACE, SLUICE_DEBUG, SLUICE_INFO, SLUICE_WARN, SLUICE_ERROR } sluice_level;

// Is handed a key and its value.
typedef bool (*sluice_visit)(sluice_bytes key, sluice_bytes value, void *with);

// What a plugin consists of.
typedef struct {
    // Deals with an event.
    int (*process)(const sluice_event *event);
    // Deals with a timer that is due.
    int (*fire)(const sluice_timer *timer);
    // Takes the pipeline's `config`, as JSON; 0, or what `sluice_fail` returns. Without it, a plugin takes none.
    int (*init)(sluice_bytes config);
    // Names with `sluice_want` what an event will read of the state, so that it is fetched for the whole batch at once.
    void (*wants)(const sluice_event *event);
    // The version of what it keeps in the state, and how a value of an older one is brought over: what is given to `sluice_migrated` stands in its
    // place. The key is the whole one, `NAME/KEY`.
    uint32_t state_version;
    int (*migrate)(uint32_t from, sluice_bytes key, sluice_bytes value, int64_t expires);
} sluice_consumer;

// ---- What a consumer can do ----

// Sends an event to the pipeline's first sink.
SLUICE_API int sluice_send(sluice_bytes key, sluice_bytes value);
// Sends an event.
SLUICE_API int sluice_put(const sluice_output *output);
// Says why the event or timer in hand has failed, and is what `process` or `fire` returns then. The reason is a format of `printf`.
SLUICE_API int sluice_fail(sluice_failure kind, const char *reason, ...) __attribute__((format(printf, 2, 3)));
// Ends the instance: what it says goes to the log and into the dead letter.
SLUICE_API SLUICE_NORETURN_ void sluice_panic(const char *reason, ...) __attribute__((format(printf, 1, 2)));
// Writes a line to the node's log.
SLUICE_API void sluice_log(sluice_level level, const char *line, ...) __attribute__((format(printf, 2, 3)));
// The header of an event, by its index.
SLUICE_API sluice_header sluice_header_at(const sluice_event *event, uint16_t index);
// The bytes of a text.
static inline sluice_bytes sluice_text(const char *text) {
    sluice_bytes bytes = {(const uint8_t *)text, (uint32_t)strlen(text)};
    return bytes;
}
static inline bool sluice_equal(sluice_bytes a, sluice_bytes b) {
    return a.len == b.len && (a.data == NULL) == (b.data == NULL) && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

// Keyed state, with the capability `state`: values under the keys of some name. It outlives instances and crashes; what an event changes is committed with
// its outputs. It is that of this stage and partition.
SLUICE_API bool sluice_state_get(const char *name, sluice_bytes key, sluice_bytes *value);
SLUICE_API void sluice_state_set(const char *name, sluice_bytes key, sluice_bytes value);
// Until so many milliseconds after the time of the event or timer in hand.
SLUICE_API void sluice_state_set_for(const char *name, sluice_bytes key, sluice_bytes value, int64_t millis);
SLUICE_API void sluice_state_delete(const char *name, sluice_bytes key);
// Hands over what is kept under keys that begin with `prefix`, in their order, until `visit` has had enough. It must not change the state.
SLUICE_API void sluice_state_scan(const char *name, sluice_bytes prefix, sluice_visit visit, void *with);
SLUICE_API void sluice_want(const char *name, sluice_bytes key);
SLUICE_API void sluice_migrated(sluice_bytes key, sluice_bytes value, int64_t expires);

// Timers, with the capability `timers`: one with the same key and tag is replaced.
SLUICE_API void sluice_timer_set(sluice_clock clock, int64_t time, sluice_bytes key, sluice_bytes tag);
SLUICE_API void sluice_timer_clear(sluice_bytes key, sluice_bytes tag);

// Memory that is valid until the end of the call, which has a whole batch.
SLUICE_API void *sluice_scratch(size_t len);

// ---- How it works ----

extern const sluice_consumer sluice_the_consumer;
#define SLUICE_CONSUMER(...) const sluice_consumer sluice_the_consumer = {__VA_ARGS__};

#define SLUICE_IMPORT_(interface, name) \
    __attribute__((import_module("sluicegate:plugin/" interface "@1.1.0"), import_name(name)))
#define SLUICE_EXPORT_(interface, name) __attribute__((export_name("sluicegate:plugin/" interface "@1.1.0#" name)))

SLUICE_IMPORT_("log", "write") void sluice_host_log_(int32_t level, const void *text, size_t len);
SLUICE_IMPORT_("log", "panicked") void sluice_host_panicked_(const void *text, size_t len);
SLUICE_IMPORT_("progress", "watch") void sluice_host_watch_(const void *cell, size_t len);
SLUICE_IMPORT_("state", "get-flat") void sluice_host_get_flat_(const void *keys, size_t len, void *result);
SLUICE_IMPORT_("state", "scan")
void sluice_host_scan_(const void *prefix, size_t len, int32_t has_after, const void *after, size_t after_len,
                       int32_t limit, int32_t max_bytes, void *result);

// Bytes that grow.
typedef struct {
    uint8_t *data;
    size_t len, room;
} sluice_buffer_;

static inline uint8_t *sluice_grow_(sluice_buffer_ *buffer, size_t more) {
    if (buffer->room - buffer->len < more) {
        size_t room = buffer->room ? buffer->room : 4096;
        while (room - buffer->len < more) room *= 2;
        buffer->data = (uint8_t *)realloc(buffer->data, room);
        if (!buffer->data) __builtin_trap();
        buffer->room = room;
    }
    uint8_t *at = buffer->data + buffer->len;
    buffer->len += more;
    return at;
}

static inline void sluice_append_(sluice_buffer_ *buffer, const void *data, size_t len) {
    if (len) memcpy(sluice_grow_(buffer, len), data, len);
}

static inline void sluice_pad_(sluice_buffer_ *buffer, size_t from) {
    size_t more = (0 - (buffer->len - from)) & 7;
    if (more) memset(sluice_grow_(buffer, more), 0, more);
}

static inline uint32_t sluice_u32_(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}
static inline int64_t sluice_i64_(const uint8_t *at) {
    int64_t value;
    memcpy(&value, at, 8);
    return value;
}
static inline void sluice_set_u32_(uint8_t *at, uint32_t value) { memcpy(at, &value, 4); }
static inline void sluice_set_i64_(uint8_t *at, int64_t value) { memcpy(at, &value, 8); }

#define SLUICE_FIXED_ 64
#define SLUICE_NEVER_ INT64_MIN

// A value of the state that this call has read or changed. Those of one key are the same entry.
typedef struct {
    sluice_bytes key; // the whole one
    uint8_t *value;   // NULL: there is none
    uint32_t len;
    int64_t expires; // 0: never
    bool known; // it was read
    // By whom it was changed: 1 is a timer, and the index; by none that failed.
    bool changed;
    uint8_t source;
    uint32_t index;
    uint32_t next; // in the table
} sluice_slot_;

// What an event or timer changed, to be undone should it fail.
typedef struct {
    uint32_t slot;
    sluice_slot_ before;
} sluice_undo_;

typedef struct {
    sluice_bytes key, tag;
} sluice_changed_timer_;

struct sluice_chunk_ {
    struct sluice_chunk_ *next;
    size_t room, used;
};

static struct {
    // The call.
    const uint8_t *header, *watermarks;
    uint32_t count;
    bool chained;
    // What is in hand.
    uint8_t source;
    uint32_t index;
    int64_t now, watermark;
    sluice_bytes topic;
    uint32_t partition;
    uint64_t base_offset;
    const uint8_t *rest; // events behind the one in hand
    uint32_t rest_count;
    // The outcome.
    sluice_buffer_ outputs, sinks, failures, state, timers;
    uint32_t output_count, sink_count, failure_count, state_count, timer_count;
    sluice_failure failure_kind;
    sluice_buffer_ reason;
    // The state.
    sluice_buffer_ slots, undo, wanted, wanted_slots;
    uint32_t *table, table_size;
    // Timers changed in this call.
    sluice_buffer_ changed_timers;
    sluice_buffer_ migrated;
    uint32_t migrated_count;
    // Memory until the end of the call.
    struct sluice_chunk_ *chunks;
} sluice_;
static uint32_t sluice_in_hand_;
// What the host hands back: an address and a length.
static struct {
    uint8_t *data;
    size_t len;
} sluice_list_;

SLUICE_API void *sluice_scratch(size_t len) {
    len = (len + 7) & ~(size_t)7;
    struct sluice_chunk_ *chunk = sluice_.chunks;
    if (!chunk || chunk->room - chunk->used < len) {
        size_t room = len > 65536 ? len : 65536;
        chunk = (struct sluice_chunk_ *)malloc(sizeof *chunk + room);
        if (!chunk) __builtin_trap();
        chunk->next = sluice_.chunks, chunk->room = room, chunk->used = 0;
        sluice_.chunks = chunk;
    }
    void *at = (uint8_t *)(chunk + 1) + chunk->used;
    chunk->used += len;
    return at;
}

static inline sluice_bytes sluice_copy_(sluice_bytes bytes) {
    uint8_t *copy = (uint8_t *)sluice_scratch(bytes.len + 1);
    if (bytes.len) memcpy(copy, bytes.data, bytes.len);
    sluice_bytes copied = {copy, bytes.len};
    return copied;
}

// Keeps one chunk for the next call.
static inline void sluice_forget_(void) {
    while (sluice_.chunks && sluice_.chunks->next) {
        struct sluice_chunk_ *next = sluice_.chunks->next;
        free(sluice_.chunks);
        sluice_.chunks = next;
    }
    if (sluice_.chunks) sluice_.chunks->used = 0;
    sluice_.slots.len = sluice_.undo.len = sluice_.changed_timers.len = 0;
    if (sluice_.table) memset(sluice_.table, 0, sluice_.table_size * sizeof *sluice_.table);
}

__attribute__((export_name("cabi_realloc"))) void *sluice_realloc_(void *old, size_t old_len, size_t align, size_t len) {
    (void)align;
    if (!len) return (void *)8;
    void *data = realloc(old_len ? old : NULL, len);
    if (!data) __builtin_trap();
    return data;
}

static void sluice_formatted_(sluice_buffer_ *out, const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int len = vsnprintf(NULL, 0, format, arguments);
    out->len = 0;
    vsnprintf((char *)sluice_grow_(out, (size_t)len + 1), (size_t)len + 1, format, again);
    out->len = (size_t)len;
    va_end(again);
}

SLUICE_API int sluice_fail(sluice_failure kind, const char *reason, ...) {
    va_list arguments;
    va_start(arguments, reason);
    sluice_formatted_(&sluice_.reason, reason, arguments);
    va_end(arguments);
    sluice_.failure_kind = kind;
    return -1;
}

SLUICE_API SLUICE_NORETURN_ void sluice_panic(const char *reason, ...) {
    va_list arguments;
    va_start(arguments, reason);
    sluice_formatted_(&sluice_.reason, reason, arguments);
    va_end(arguments);
    sluice_host_panicked_(sluice_.reason.data, sluice_.reason.len);
    __builtin_trap();
}

SLUICE_API void sluice_log(sluice_level level, const char *line, ...) {
    static sluice_buffer_ text;
    va_list arguments;
    va_start(arguments, line);
    sluice_formatted_(&text, line, arguments);
    va_end(arguments);
    sluice_host_log_((int32_t)level, text.data, text.len);
}

// ---- Outputs ----

static uint32_t sluice_sink_(const char *name) {
    if (!name) return 0;
    size_t len = strlen(name), at = 0;
    uint32_t index = 1;
    for (; at < sluice_.sinks.len; index++) {
        uint32_t other = sluice_u32_(sluice_.sinks.data + at);
        if (other == len && memcmp(sluice_.sinks.data + at + 4, name, len) == 0) return index;
        at += 4 + other;
    }
    sluice_set_u32_(sluice_grow_(&sluice_.sinks, 4), (uint32_t)len);
    sluice_append_(&sluice_.sinks, name, len);
    sluice_.sink_count++;
    return index;
}

SLUICE_API int sluice_put(const sluice_output *output) {
    bool has_key = output->key.data != NULL;
    size_t len = 48 + (size_t)output->key.len + output->value.len;
    for (uint16_t at = 0; at < output->header_count; at++) {
        len += 8 + (size_t)output->headers[at].name.len + output->headers[at].value.len;
    }
    size_t padded = (len + 7) & ~(size_t)7;
    if (padded > UINT32_MAX) return sluice_fail(SLUICE_PERMANENT, "an output of %zu bytes is too large", len);
    uint32_t sink = sluice_sink_(output->sink);
    uint8_t *at = sluice_grow_(&sluice_.outputs, padded);
    uint16_t flags = (uint16_t)(2 | (has_key ? 1 : 0));
    sluice_set_u32_(at, (uint32_t)padded);
    memcpy(at + 4, &flags, 2);
    memcpy(at + 6, &output->header_count, 2);
    sluice_set_i64_(at + 8, output->has_timestamp ? output->timestamp : sluice_.now);
    sluice_set_u32_(at + 16, output->key.len);
    sluice_set_u32_(at + 20, output->value.len);
    // Where it comes from: sink, partition 0, index, ordinal 0, source.
    sluice_set_u32_(at + 24, sink);
    sluice_set_u32_(at + 28, 0);
    sluice_set_i64_(at + 32, sluice_.index);
    sluice_set_u32_(at + 40, 0);
    sluice_set_u32_(at + 44, sluice_.source);
    uint8_t *end = at + padded;
    at += 48;
    for (uint16_t i = 0; i < output->header_count; i++, at += 8) {
        sluice_set_u32_(at, output->headers[i].name.len);
        sluice_set_u32_(at + 4, output->headers[i].value.len);
    }
    if (output->key.len) memcpy(at, output->key.data, output->key.len);
    at += output->key.len;
    if (output->value.len) memcpy(at, output->value.data, output->value.len);
    at += output->value.len;
    for (uint16_t i = 0; i < output->header_count; i++) {
        const sluice_header *header = &output->headers[i];
        if (header->name.len) memcpy(at, header->name.data, header->name.len);
        at += header->name.len;
        if (header->value.len) memcpy(at, header->value.data, header->value.len);
        at += header->value.len;
    }
    memset(at, 0, (size_t)(end - at));
    sluice_.output_count++;
    return 0;
}

SLUICE_API int sluice_send(sluice_bytes key, sluice_bytes value) {
    sluice_output output;
    memset(&output, 0, sizeof output);
    output.key = key, output.value = value;
    return sluice_put(&output);
}

SLUICE_API sluice_header sluice_header_at(const sluice_event *event, uint16_t index) {
    const uint8_t *table = event->headers_, *data = event->value.data + event->value.len;
    for (uint16_t at = 0; at < index; at++) data += sluice_u32_(table + 8 * at) + sluice_u32_(table + 8 * at + 4);
    sluice_header header;
    header.name.data = data, header.name.len = sluice_u32_(table + 8 * index);
    header.value.data = data + header.name.len, header.value.len = sluice_u32_(table + 8 * index + 4);
    return header;
}

// ---- State ----

static inline sluice_slot_ *sluice_slot_at_(uint32_t number) { return (sluice_slot_ *)sluice_.slots.data + number; }
static inline uint32_t sluice_slot_count_(void) { return (uint32_t)(sluice_.slots.len / sizeof(sluice_slot_)); }

static inline uint32_t sluice_hash_(sluice_bytes key) {
    uint32_t hash = 2166136261u;
    for (uint32_t at = 0; at < key.len; at++) hash = (hash ^ key.data[at]) * 16777619u;
    return hash;
}

// The number of a key's slot, counted from 1; 0 when it has none.
static uint32_t sluice_find_(sluice_bytes key) {
    if (!sluice_.table) return 0;
    uint32_t number = sluice_.table[sluice_hash_(key) & (sluice_.table_size - 1)];
    while (number && !sluice_equal(sluice_slot_at_(number - 1)->key, key)) number = sluice_slot_at_(number - 1)->next;
    return number;
}

static uint32_t sluice_add_slot_(sluice_bytes key) {
    uint32_t count = sluice_slot_count_();
    if (!sluice_.table || count >= sluice_.table_size) {
        uint32_t size = sluice_.table_size ? sluice_.table_size * 2 : 1024;
        sluice_.table = (uint32_t *)realloc(sluice_.table, size * sizeof *sluice_.table);
        if (!sluice_.table) __builtin_trap();
        memset(sluice_.table, 0, size * sizeof *sluice_.table);
        sluice_.table_size = size;
        for (uint32_t number = 0; number < count; number++) {
            uint32_t *place = &sluice_.table[sluice_hash_(sluice_slot_at_(number)->key) & (size - 1)];
            sluice_slot_at_(number)->next = *place, *place = number + 1;
        }
    }
    uint32_t *place = &sluice_.table[sluice_hash_(key) & (sluice_.table_size - 1)];
    sluice_slot_ *slot = (sluice_slot_ *)sluice_grow_(&sluice_.slots, sizeof *slot);
    memset(slot, 0, sizeof *slot);
    slot->key = sluice_copy_(key), slot->next = *place;
    *place = count + 1;
    return count + 1;
}

static sluice_bytes sluice_full_key_(const char *name, sluice_bytes key) {
    uint32_t len = (uint32_t)strlen(name);
    uint8_t *full = (uint8_t *)sluice_scratch(len + 1 + key.len);
    memcpy(full, name, len);
    full[len] = '/';
    if (key.len) memcpy(full + len + 1, key.data, key.len);
    sluice_bytes bytes = {full, len + 1 + key.len};
    return bytes;
}

static void sluice_want_(sluice_bytes full) {
    uint32_t number = sluice_find_(full);
    if (!number) number = sluice_add_slot_(full);
    sluice_slot_ *slot = sluice_slot_at_(number - 1);
    if (slot->known || slot->changed) return;
    slot->known = true;
    sluice_set_u32_(sluice_grow_(&sluice_.wanted_slots, 4), number - 1);
    sluice_set_u32_(sluice_grow_(&sluice_.wanted, 4), full.len);
    sluice_append_(&sluice_.wanted, full.data, full.len);
}

SLUICE_API void sluice_want(const char *name, sluice_bytes key) { sluice_want_(sluice_full_key_(name, key)); }

static void sluice_event_at_(const uint8_t *at, uint32_t index, sluice_event *event) {
    uint16_t flags, headers;
    memcpy(&flags, at + 4, 2);
    memcpy(&headers, at + 6, 2);
    const uint8_t *rest = at + 24;
    event->topic = sluice_.topic, event->partition = sluice_.partition;
    event->offset = sluice_.base_offset + index;
    if (flags & 2) {
        if (sluice_.chained) memcpy(&event->offset, rest + 8, 8);
        rest += 24;
    }
    event->timestamp = sluice_i64_(at + 8);
    event->header_count = headers, event->headers_ = rest;
    rest += 8 * (size_t)headers;
    event->key.data = flags & 1 ? rest : NULL, event->key.len = sluice_u32_(at + 16);
    event->value.data = rest + event->key.len, event->value.len = sluice_u32_(at + 20);
}

// Fetches what is wanted and not there, for the rest of the batch where the consumer says what that wants.
static void sluice_fetch_(sluice_bytes full) {
    sluice_.wanted.len = sluice_.wanted_slots.len = 0;
    sluice_want_(full);
    if (sluice_the_consumer.wants) {
        const uint8_t *at = sluice_.rest;
        for (uint32_t number = 0; number < sluice_.rest_count; number++) {
            sluice_event event;
            sluice_event_at_(at, sluice_.count - sluice_.rest_count + number, &event);
            sluice_the_consumer.wants(&event);
            at += sluice_u32_(at);
        }
    }
    sluice_host_get_flat_(sluice_.wanted.data, sluice_.wanted.len, &sluice_list_);
    const uint8_t *found = sluice_list_.data;
    for (size_t at = 0; at < sluice_.wanted_slots.len; at += 4) {
        sluice_slot_ *slot = sluice_slot_at_(sluice_u32_(sluice_.wanted_slots.data + at));
        uint32_t len = sluice_u32_(found);
        found += 4;
        if (len == UINT32_MAX) continue;
        slot->expires = sluice_i64_(found);
        sluice_bytes value = {found + 8, len};
        slot->value = (uint8_t *)sluice_copy_(value).data, slot->len = len;
        found += 8 + len;
    }
    if (sluice_list_.len) free(sluice_list_.data);
}

SLUICE_API bool sluice_state_get(const char *name, sluice_bytes key, sluice_bytes *value) {
    sluice_bytes full = sluice_full_key_(name, key);
    uint32_t number = sluice_find_(full);
    if (!number || !(sluice_slot_at_(number - 1)->known || sluice_slot_at_(number - 1)->changed)) {
        sluice_fetch_(full);
        number = sluice_find_(full);
    }
    sluice_slot_ *slot = sluice_slot_at_(number - 1);
    bool expired = slot->expires && sluice_.watermark != SLUICE_NEVER_ && slot->expires <= sluice_.watermark;
    if (!slot->value || expired) return false;
    value->data = slot->value, value->len = slot->len;
    return true;
}

static void sluice_change_(const char *name, sluice_bytes key, const sluice_bytes *value, int64_t expires) {
    sluice_bytes full = sluice_full_key_(name, key);
    uint32_t number = sluice_find_(full);
    if (!number) number = sluice_add_slot_(full);
    sluice_slot_ *slot = sluice_slot_at_(number - 1);
    sluice_undo_ *undo = (sluice_undo_ *)sluice_grow_(&sluice_.undo, sizeof *undo);
    undo->slot = number - 1, undo->before = *slot;
    slot->value = value ? (uint8_t *)sluice_copy_(*value).data : NULL, slot->len = value ? value->len : 0;
    slot->expires = expires, slot->changed = true;
    slot->source = sluice_.source, slot->index = sluice_.index;
}

SLUICE_API void sluice_state_set(const char *name, sluice_bytes key, sluice_bytes value) {
    sluice_change_(name, key, &value, 0);
}

SLUICE_API void sluice_state_set_for(const char *name, sluice_bytes key, sluice_bytes value, int64_t millis) {
    int64_t expires = sluice_.now > INT64_MAX - millis ? INT64_MAX : sluice_.now + millis;
    sluice_change_(name, key, &value, expires ? expires : 1);
}

SLUICE_API void sluice_state_delete(const char *name, sluice_bytes key) { sluice_change_(name, key, NULL, 0); }

static int sluice_by_key_(const void *a, const void *b) {
    sluice_bytes x = sluice_slot_at_(*(const uint32_t *)a)->key, y = sluice_slot_at_(*(const uint32_t *)b)->key;
    int order = memcmp(x.data, y.data, x.len < y.len ? x.len : y.len);
    return order ? order : (x.len > y.len) - (x.len < y.len);
}

SLUICE_API void sluice_state_scan(const char *name, sluice_bytes prefix, sluice_visit visit, void *with) {
    uint32_t name_len = (uint32_t)strlen(name) + 1;
    sluice_bytes full = sluice_full_key_(name, prefix), after = {NULL, 0};
    // What was changed in this call, in the order of keys.
    uint32_t *own = (uint32_t *)sluice_scratch((sluice_slot_count_() + 1) * sizeof *own), own_count = 0, next = 0;
    for (uint32_t number = 0; number < sluice_slot_count_(); number++) {
        sluice_slot_ *slot = sluice_slot_at_(number);
        bool fits = slot->key.len >= full.len && memcmp(slot->key.data, full.data, full.len) == 0;
        if (slot->changed && fits) own[own_count++] = number;
    }
    qsort(own, own_count, sizeof *own, sluice_by_key_);
    for (bool more = true; more;) {
        sluice_host_scan_(full.data, full.len, after.data != NULL, after.data, after.len, 1000, 1 << 20, &sluice_list_);
        // Per entry: key, value, a flag and a time; 32 bytes.
        uint8_t *entries = sluice_list_.data;
        size_t count = sluice_list_.len;
        more = count > 0;
        for (size_t number = 0; number <= count; number++) {
            sluice_bytes key = {NULL, 0}, value = {NULL, 0};
            int64_t expires = 0;
            if (number < count) {
                const uint8_t *entry = entries + 32 * number;
                key.data = (const uint8_t *)(uintptr_t)sluice_u32_(entry), key.len = sluice_u32_(entry + 4);
                value.data = (const uint8_t *)(uintptr_t)sluice_u32_(entry + 8), value.len = sluice_u32_(entry + 12);
                if (entry[16]) expires = sluice_i64_(entry + 24);
            } else if (more) {
                break;
            }
            // What stands before it, or in its place.
            bool hidden = false;
            while (next < own_count && !hidden) {
                sluice_slot_ *slot = sluice_slot_at_(own[next]);
                if (key.data) {
                    uint32_t least = key.len < slot->key.len ? key.len : slot->key.len;
                    int order = memcmp(slot->key.data, key.data, least);
                    if (!order) order = (slot->key.len > key.len) - (slot->key.len < key.len);
                    if (order > 0) break;
                    hidden = order == 0;
                }
                next++;
                sluice_bytes own_key = {slot->key.data + name_len, slot->key.len - name_len};
                sluice_bytes own_value = {slot->value, slot->len};
                bool gone = slot->expires && sluice_.watermark != SLUICE_NEVER_ && slot->expires <= sluice_.watermark;
                if (slot->value && !gone && !visit(own_key, own_value, with)) return;
            }
            if (!key.data) break;
            after = sluice_copy_(key);
            bool gone = expires && sluice_.watermark != SLUICE_NEVER_ && expires <= sluice_.watermark;
            if (!hidden && !gone) {
                sluice_bytes own_key = {key.data + name_len, key.len - name_len};
                if (!visit(own_key, value, with)) return;
            }
        }
        for (size_t number = 0; number < count; number++) {
            const uint8_t *entry = entries + 32 * number;
            if (sluice_u32_(entry + 4)) free((void *)(uintptr_t)sluice_u32_(entry));
            if (sluice_u32_(entry + 12)) free((void *)(uintptr_t)sluice_u32_(entry + 8));
        }
        if (count) free(entries);
    }
}

// ---- Timers ----

static void sluice_change_timer_(bool set, sluice_clock clock, int64_t time, sluice_bytes key, sluice_bytes tag) {
    size_t start = sluice_.timers.len;
    uint8_t *at = sluice_grow_(&sluice_.timers, 32);
    memset(at, 0, 32);
    at[4] = set, at[5] = sluice_.source, at[6] = set ? (uint8_t)clock : 0;
    sluice_set_u32_(at + 8, sluice_.index);
    sluice_set_u32_(at + 12, key.len);
    sluice_set_u32_(at + 16, tag.len);
    sluice_set_i64_(at + 24, set ? time : 0);
    sluice_append_(&sluice_.timers, key.data, key.len);
    sluice_append_(&sluice_.timers, tag.data, tag.len);
    sluice_pad_(&sluice_.timers, start);
    sluice_set_u32_(sluice_.timers.data + start, (uint32_t)(sluice_.timers.len - start));
    sluice_.timer_count++;
    sluice_changed_timer_ changed = {sluice_copy_(key), sluice_copy_(tag)};
    sluice_append_(&sluice_.changed_timers, &changed, sizeof changed);
}

SLUICE_API void sluice_timer_set(sluice_clock clock, int64_t time, sluice_bytes key, sluice_bytes tag) {
    sluice_change_timer_(true, clock, time, key, tag);
}

SLUICE_API void sluice_timer_clear(sluice_bytes key, sluice_bytes tag) {
    sluice_change_timer_(false, SLUICE_EVENT_TIME, 0, key, tag);
}

static bool sluice_is_changed_(const sluice_timer *timer) {
    const sluice_changed_timer_ *changed = (const sluice_changed_timer_ *)sluice_.changed_timers.data;
    for (size_t at = 0; at < sluice_.changed_timers.len / sizeof *changed; at++) {
        if (sluice_equal(changed[at].key, timer->key) && sluice_equal(changed[at].tag, timer->tag)) return true;
    }
    return false;
}

// ---- A call ----

static void sluice_write_states_(void) {
    // In the order in which they were first asked for or changed.
    for (uint32_t number = 0; number < sluice_slot_count_(); number++) {
        sluice_slot_ *slot = sluice_slot_at_(number);
        if (!slot->changed) continue;
        size_t start = sluice_.state.len;
        uint8_t *at = sluice_grow_(&sluice_.state, 32);
        memset(at, 0, 32);
        at[4] = slot->value != NULL, at[5] = slot->source;
        sluice_set_u32_(at + 8, slot->index);
        sluice_set_u32_(at + 12, slot->key.len);
        sluice_set_u32_(at + 16, slot->value ? slot->len : 0);
        sluice_set_i64_(at + 24, slot->value ? slot->expires : 0);
        sluice_append_(&sluice_.state, slot->key.data, slot->key.len);
        if (slot->value) sluice_append_(&sluice_.state, slot->value, slot->len);
        sluice_pad_(&sluice_.state, start);
        sluice_set_u32_(sluice_.state.data + start, (uint32_t)(sluice_.state.len - start));
        sluice_.state_count++;
    }
}

// Deals with one; whether the call goes on behind it.
static bool sluice_deal_(const sluice_event *event, const sluice_timer *timer) {
    size_t outputs = sluice_.outputs.len, timers = sluice_.timers.len, changed = sluice_.changed_timers.len;
    uint32_t output_count = sluice_.output_count, timer_count = sluice_.timer_count;
    sluice_.undo.len = 0;
    sluice_in_hand_ = sluice_.index | (timer ? 0x80000000u : 0);
    int told;
    if (event) {
        told = sluice_the_consumer.process(event);
    } else if (sluice_the_consumer.fire) {
        told = sluice_the_consumer.fire(timer);
    } else {
        told = sluice_fail(SLUICE_PERMANENT, "a timer fired, and the consumer has no `fire`");
    }
    if (told == 0) return true;
    sluice_.outputs.len = outputs, sluice_.output_count = output_count;
    sluice_.timers.len = timers, sluice_.timer_count = timer_count, sluice_.changed_timers.len = changed;
    sluice_undo_ *undo = (sluice_undo_ *)sluice_.undo.data;
    for (size_t at = sluice_.undo.len / sizeof *undo; at-- > 0;) {
        uint32_t next = sluice_slot_at_(undo[at].slot)->next;
        *sluice_slot_at_(undo[at].slot) = undo[at].before;
        sluice_slot_at_(undo[at].slot)->next = next;
    }
    size_t start = sluice_.failures.len;
    uint8_t *at = sluice_grow_(&sluice_.failures, 16);
    memset(at, 0, 16);
    at[4] = sluice_.source, at[5] = (uint8_t)sluice_.failure_kind;
    sluice_set_u32_(at + 8, sluice_.index);
    sluice_set_u32_(at + 12, (uint32_t)sluice_.reason.len);
    sluice_append_(&sluice_.failures, sluice_.reason.data, sluice_.reason.len);
    sluice_pad_(&sluice_.failures, start);
    sluice_set_u32_(sluice_.failures.data + start, (uint32_t)(sluice_.failures.len - start));
    sluice_.failure_count++;
    return sluice_.failure_kind == SLUICE_PERMANENT;
}

static int64_t sluice_watermark_before_(uint32_t index) {
    return sluice_.watermarks ? sluice_i64_(sluice_.watermarks + 8 * (size_t)index) : sluice_i64_(sluice_.header + 32);
}

SLUICE_EXPORT_("batch", "process")
void *sluice_process_(uint8_t *header, size_t header_len, uint8_t *events, size_t events_len) {
    uint32_t due_count = sluice_u32_(header + 12), due_len = sluice_u32_(header + 16), name_len = sluice_u32_(header + 56);
    const uint8_t *due = header + SLUICE_FIXED_ + ((name_len + 7) & ~7u), *event_at = events;
    sluice_forget_();
    sluice_.header = header, sluice_.count = sluice_u32_(header + 8);
    sluice_.chained = sluice_u32_(header + 20) & 1;
    sluice_.watermarks = sluice_u32_(header + 20) & 2 ? due + due_len : NULL;
    sluice_.base_offset = (uint64_t)sluice_i64_(header + 24), sluice_.partition = sluice_u32_(header + 52);
    sluice_.topic.data = header + SLUICE_FIXED_, sluice_.topic.len = name_len;
    sluice_.outputs.len = sluice_.sinks.len = sluice_.failures.len = sluice_.state.len = sluice_.timers.len = 0;
    sluice_.output_count = sluice_.sink_count = sluice_.failure_count = sluice_.state_count = sluice_.timer_count = 0;
    memset(sluice_grow_(&sluice_.outputs, SLUICE_FIXED_), 0, SLUICE_FIXED_);
    uint32_t processed = 0, fired = 0;
    bool goes_on = true;
    while (goes_on && (processed < sluice_.count || fired < due_count)) {
        sluice_.watermark = sluice_watermark_before_(processed);
        sluice_.rest = event_at, sluice_.rest_count = sluice_.count - processed;
        if (fired < due_count && sluice_u32_(due + 16) <= processed) {
            sluice_timer timer = {(sluice_clock)due[4], sluice_i64_(due + 8), {due + 32, sluice_u32_(due + 24)}, {NULL, 0}};
            timer.tag.data = timer.key.data + timer.key.len, timer.tag.len = sluice_u32_(due + 28);
            sluice_.source = 1, sluice_.index = fired, sluice_.now = timer.time;
            // Cleared in this call, or set anew: it is as good as fired.
            if (!sluice_is_changed_(&timer)) goes_on = sluice_deal_(NULL, &timer);
            due += sluice_u32_(due);
            fired += goes_on;
        } else if (processed < sluice_.count) {
            sluice_event event;
            sluice_event_at_(event_at, processed, &event);
            sluice_.source = 0, sluice_.index = processed, sluice_.now = event.timestamp;
            goes_on = sluice_deal_(&event, NULL);
            event_at += sluice_u32_(event_at);
            processed += goes_on;
        } else {
            break;
        }
    }
    sluice_write_states_();
    uint32_t words[12] = {processed, fired, sluice_.output_count, (uint32_t)(sluice_.outputs.len - SLUICE_FIXED_),
                          sluice_.sink_count, (uint32_t)sluice_.sinks.len, sluice_.failure_count,
                          (uint32_t)sluice_.failures.len, sluice_.state_count, (uint32_t)sluice_.state.len,
                          sluice_.timer_count, (uint32_t)sluice_.timers.len};
    memcpy(sluice_.outputs.data, "SLGO\1\0\100\0", 8);
    memcpy(sluice_.outputs.data + 8, words, sizeof words);
    sluice_append_(&sluice_.outputs, sluice_.sinks.data, sluice_.sinks.len);
    sluice_pad_(&sluice_.outputs, 0);
    sluice_append_(&sluice_.outputs, sluice_.failures.data, sluice_.failures.len);
    sluice_append_(&sluice_.outputs, sluice_.state.data, sluice_.state.len);
    sluice_append_(&sluice_.outputs, sluice_.timers.data, sluice_.timers.len);
    if (header_len) free(header);
    if (events_len) free(events);
    sluice_list_.data = sluice_.outputs.data, sluice_list_.len = sluice_.outputs.len;
    return &sluice_list_;
}

SLUICE_EXPORT_("lifecycle", "init") void *sluice_init_(uint8_t *config, size_t len) {
    static struct {
        uint32_t failed;
        uint8_t *data;
        size_t len;
    } told;
    memset(&told, 0, sizeof told);
    sluice_host_watch_(&sluice_in_hand_, 4);
    sluice_bytes given = {config, (uint32_t)len};
    int failed = 0;
    if (sluice_the_consumer.init) {
        failed = sluice_the_consumer.init(given);
    } else if (!sluice_equal(given, sluice_text("{}"))) {
        failed = sluice_fail(SLUICE_PERMANENT, "config: this consumer takes none");
    }
    if (failed) told.failed = 1, told.data = sluice_.reason.data, told.len = sluice_.reason.len;
    return &told;
}

SLUICE_EXPORT_("versioned-state", "version") uint32_t sluice_version_(void) {
    return sluice_the_consumer.state_version;
}

SLUICE_API void sluice_migrated(sluice_bytes key, sluice_bytes value, int64_t expires) {
    sluice_bytes own_key = sluice_copy_(key), own_value = sluice_copy_(value);
    uint8_t *at = sluice_grow_(&sluice_.migrated, 32);
    memset(at, 0, 32);
    sluice_set_u32_(at, (uint32_t)(uintptr_t)own_key.data);
    sluice_set_u32_(at + 4, own_key.len);
    sluice_set_u32_(at + 8, (uint32_t)(uintptr_t)own_value.data);
    sluice_set_u32_(at + 12, own_value.len);
    at[16] = expires != 0;
    sluice_set_i64_(at + 24, expires);
    sluice_.migrated_count++;
}

SLUICE_EXPORT_("versioned-state", "migrate") void *sluice_migrate_(uint32_t from, uint8_t *entries, size_t count) {
    static struct {
        uint32_t failed;
        uint8_t *data;
        size_t len;
    } told;
    sluice_forget_();
    sluice_.migrated.len = 0, sluice_.migrated_count = 0;
    int failed = 0;
    for (size_t number = 0; number < count && !failed; number++) {
        const uint8_t *entry = entries + 32 * number;
        sluice_bytes key = {(const uint8_t *)(uintptr_t)sluice_u32_(entry), sluice_u32_(entry + 4)};
        sluice_bytes value = {(const uint8_t *)(uintptr_t)sluice_u32_(entry + 8), sluice_u32_(entry + 12)};
        int64_t expires = entry[16] ? sluice_i64_(entry + 24) : 0;
        if (sluice_the_consumer.migrate) {
            failed = sluice_the_consumer.migrate(from, key, value, expires);
        } else {
            failed = sluice_fail(SLUICE_PERMANENT, "the consumer has no `migrate`");
        }
    }
    for (size_t number = 0; number < count; number++) {
        const uint8_t *entry = entries + 32 * number;
        if (sluice_u32_(entry + 4)) free((void *)(uintptr_t)sluice_u32_(entry));
        if (sluice_u32_(entry + 12)) free((void *)(uintptr_t)sluice_u32_(entry + 8));
    }
    if (count) free(entries);
    told.failed = failed != 0;
    told.data = failed ? sluice_.reason.data : sluice_.migrated.data;
    told.len = failed ? sluice_.reason.len : sluice_.migrated_count;
    return &told;
}

#ifdef __cplusplus
}
#endif
#endif
