// Lets each key through once within some time.
#include "sluice.h"
#include "sluice_json.h"

static int64_t seconds = 3600;

static int init(sluice_bytes config) {
    sluice_json_field fields[] = {{"for-seconds", {NULL, 0}}};
    bool unknown;
    if (!sluice_json_object(config, fields, 1, &unknown) || unknown) {
        return sluice_fail(SLUICE_PERMANENT, "config: {\"for-seconds\": N} is all there is");
    }
    if (fields[0].value.data && !sluice_json_int(fields[0].value, &seconds)) {
        return sluice_fail(SLUICE_PERMANENT, "config: for-seconds is no whole number");
    }
    return 0;
}

static void wants(const sluice_event *event) {
    if (event->key.data) sluice_want("seen", event->key);
}

static int process(const sluice_event *event) {
    sluice_bytes kept;
    if (!event->key.data) return sluice_fail(SLUICE_PERMANENT, "the event has no key");
    if (sluice_state_get("seen", event->key, &kept)) return 0;
    sluice_state_set_for("seen", event->key, sluice_text("1"), seconds * 1000);
    sluice_header *headers = (sluice_header *)sluice_scratch(sizeof(sluice_header) * (event->header_count + 1));
    for (uint16_t at = 0; at < event->header_count; at++) headers[at] = sluice_header_at(event, at);
    sluice_output output;
    memset(&output, 0, sizeof output);
    output.key = event->key, output.value = event->value;
    output.headers = headers, output.header_count = event->header_count;
    return sluice_put(&output);
}

SLUICE_CONSUMER(.process = process, .init = init, .wants = wants)
