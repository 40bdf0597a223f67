// The average delay of each route so far, in whole minutes towards zero.
#include "sluice.h"
#include "sluice_json.h"

static bool read_flight(const sluice_event *event, int64_t *delay, sluice_bytes *route) {
    sluice_json_field fields[] = {{"delay", {NULL, 0}}, {"origin", {NULL, 0}}, {"destination", {NULL, 0}}};
    sluice_bytes origin, destination;
    if (!sluice_json_object(event->value, fields, 3, NULL) || !sluice_json_int(fields[0].value, delay) ||
        !sluice_json_text(fields[1].value, &origin) || !sluice_json_text(fields[2].value, &destination)) {
        return false;
    }
    sluice_json_writer out = {NULL, 0, 0};
    sluice_json_raw(&out, origin.data, origin.len);
    sluice_json_put(&out, "-");
    sluice_json_raw(&out, destination.data, destination.len);
    route->data = out.data, route->len = out.len;
    return true;
}

static void wants(const sluice_event *event) {
    int64_t delay;
    sluice_bytes route;
    if (read_flight(event, &delay, &route)) sluice_want("average", route);
}

static int process(const sluice_event *event) {
    int64_t delay, count = 0, sum = 0;
    sluice_bytes route, kept;
    if (!read_flight(event, &delay, &route)) return sluice_fail(SLUICE_PERMANENT, "it is no flight");
    if (sluice_state_get("average", route, &kept)) {
        sluice_json_field fields[] = {{"count", {NULL, 0}}, {"sum", {NULL, 0}}};
        if (!sluice_json_object(kept, fields, 2, NULL) || !sluice_json_int(fields[0].value, &count) ||
            !sluice_json_int(fields[1].value, &sum)) {
            return sluice_fail(SLUICE_PERMANENT, "what is kept of the route is no sum");
        }
    }
    count++, sum += delay;
    sluice_json_writer out = {NULL, 0, 0};
    sluice_json_put(&out, "{\"count\":");
    sluice_json_put_int(&out, count);
    sluice_json_put(&out, ",\"sum\":");
    sluice_json_put_int(&out, sum);
    sluice_json_put(&out, "}");
    sluice_bytes value = {out.data, out.len};
    sluice_state_set("average", route, value);
    sluice_json_writer told = {NULL, 0, 0};
    sluice_json_put(&told, "{\"route\":");
    sluice_json_put_text(&told, route);
    sluice_json_put(&told, ",\"count\":");
    sluice_json_put_int(&told, count);
    sluice_json_put(&told, ",\"mean\":");
    sluice_json_put_int(&told, sum / count);
    sluice_json_put(&told, "}");
    value.data = told.data, value.len = told.len;
    return sluice_send(route, value);
}

SLUICE_CONSUMER(.process = process, .wants = wants)
