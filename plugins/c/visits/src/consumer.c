// Counts visits under each key until nothing has come for a second.
#include <inttypes.h>
#include <stdlib.h>

#include "sluice.h"

static int send_text(sluice_bytes key, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int send_text(sluice_bytes key, const char *format, ...) {
    char text[100];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return sluice_send(key, sluice_text(text));
}

static uint64_t number(sluice_bytes text) {
    uint64_t number = 0;
    for (uint32_t at = 0; at < text.len; at++) number = number * 10 + (text.data[at] - '0');
    return number;
}

static uint64_t count_of(sluice_bytes key) {
    sluice_bytes kept;
    return sluice_state_get("visits", key, &kept) ? number(kept) : 0;
}

static void wants(const sluice_event *event) {
    if (event->key.data) sluice_want("visits", event->key);
}

static bool tell(sluice_bytes key, sluice_bytes value, void *with) {
    (void)with;
    sluice_send(key, value);
    return true;
}

static int process(const sluice_event *event) {
    sluice_bytes key = event->key, value = event->value;
    if (!key.data) return sluice_fail(SLUICE_PERMANENT, "the event has no key");
    uint64_t before = count_of(key);
    if (value.len >= 4 && memcmp(value.data, "who ", 4) == 0) {
        sluice_bytes prefix = {value.data + 4, value.len - 4};
        sluice_state_scan("visits", prefix, tell, NULL);
        return 0;
    }
    if (sluice_equal(value, sluice_text("bye"))) {
        sluice_state_delete("visits", key);
        sluice_timer_clear(key, sluice_text("idle"));
        sluice_timer_clear(key, sluice_text("third"));
        return send_text(key, "bye %" PRIu64, before);
    }
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, before + 1);
    sluice_state_set("visits", key, sluice_text(text));
    sluice_timer_set(SLUICE_EVENT_TIME, event->timestamp + 1000, key, sluice_text("idle"));
    if ((before + 1) % 3 == 0) sluice_timer_set(SLUICE_EVENT_TIME, event->timestamp + 500, key, sluice_text("third"));
    // All of it is undone.
    return sluice_equal(value, sluice_text("bad")) ? sluice_fail(SLUICE_PERMANENT, "a bad visit") : 0;
}

static int fire(const sluice_timer *timer) {
    uint64_t count = count_of(timer->key);
    if (sluice_equal(timer->tag, sluice_text("idle"))) sluice_state_delete("visits", timer->key);
    return send_text(timer->key, "%.*s %" PRIu64 " at %" PRId64, (int)timer->tag.len, (const char *)timer->tag.data, count,
                     timer->time);
}

// Version 0 kept them under `visit`, and those that had left as 0.
static int migrate(uint32_t from, sluice_bytes key, sluice_bytes value, int64_t expires) {
    (void)from;
    for (uint32_t at = 0; at < value.len; at++) {
        if (value.data[at] < '0' || value.data[at] > '9') return sluice_fail(SLUICE_PERMANENT, "what is kept is no count");
    }
    if (number(value) == 0) return 0;
    const uint32_t name = strlen("visit"), new_name = strlen("visits");
    uint8_t *text = (uint8_t *)sluice_scratch(key.len + new_name - name);
    memcpy(text, "visits", new_name);
    memcpy(text + new_name, key.data + name, key.len - name);
    sluice_bytes moved = {text, key.len + new_name - name};
    sluice_migrated(moved, value, expires);
    return 0;
}

SLUICE_CONSUMER(.process = process, .fire = fire, .wants = wants, .state_version = 1, .migrate = migrate)
