// Keeps the flights that left late, and says by how much, keyed by the airport they left from.
#include "sluice.h"
#include "sluice_json.h"

static int64_t threshold = 30;

static int init(sluice_bytes config) {
    sluice_json_field fields[] = {{"threshold-minutes", {NULL, 0}}};
    bool unknown;
    if (!sluice_json_object(config, fields, 1, &unknown) || unknown) {
        return sluice_fail(SLUICE_PERMANENT, "config: {\"threshold-minutes\": N} is all there is");
    }
    if (fields[0].value.data && !sluice_json_int(fields[0].value, &threshold)) {
        return sluice_fail(SLUICE_PERMANENT, "config: threshold-minutes is no whole number");
    }
    return 0;
}

static int process(const sluice_event *event) {
    sluice_json_field fields[] = {{"delay", {NULL, 0}}, {"origin", {NULL, 0}}, {"destination", {NULL, 0}}};
    int64_t delay;
    sluice_bytes origin, destination;
    if (!sluice_json_object(event->value, fields, 3, NULL)) return sluice_fail(SLUICE_PERMANENT, "it is no JSON object");
    if (!sluice_json_int(fields[0].value, &delay) || !sluice_json_text(fields[1].value, &origin) ||
        !sluice_json_text(fields[2].value, &destination)) {
        return sluice_fail(SLUICE_PERMANENT, "no flight: it has no delay, origin and destination");
    }
    if (delay < threshold) return 0;
    sluice_json_writer out = {NULL, 0, 0};
    sluice_json_put(&out, "{\"route\":[");
    sluice_json_put_text(&out, origin);
    sluice_json_put(&out, ",");
    sluice_json_put_text(&out, destination);
    sluice_json_put(&out, "],\"minutes\":");
    sluice_json_put_int(&out, delay);
    sluice_json_put(&out, "}");
    sluice_bytes value = {out.data, out.len};
    return sluice_send(origin, value);
}

SLUICE_CONSUMER(.process = process, .init = init)
