// Fails in every way a consumer can. Otherwise it writes an event's text with ASCII letters in capitals.
#include "sluice.h"

static bool is_utf8(sluice_bytes text) {
    for (uint32_t at = 0; at < text.len;) {
        uint8_t first = text.data[at++];
        if (first < 0x80) continue;
        int more = first >= 0xf0 && first < 0xf5 ? 3 : first >= 0xe0 && first < 0xf0 ? 2 : first >= 0xc2 && first < 0xe0 ? 1 : 0;
        if (!more || text.len - at < (uint32_t)more) return false;
        uint32_t code = first & (0x3f >> more);
        for (int next = 0; next < more; next++, at++) {
            if ((text.data[at] & 0xc0) != 0x80) return false;
            code = code << 6 | (text.data[at] & 0x3f);
        }
        uint32_t least = more == 3 ? 0x10000 : more == 2 ? 0x800 : 0x80;
        if (code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    }
    return true;
}

static int process(const sluice_event *event) {
    sluice_bytes text = event->value;
    if (!is_utf8(text)) return sluice_fail(SLUICE_PERMANENT, "not UTF-8");
    const uint8_t *space = text.len ? (const uint8_t *)memchr(text.data, ' ', text.len) : NULL;
    sluice_bytes word = {text.data, space ? (uint32_t)(space - text.data) : text.len};
    if (sluice_equal(word, sluice_text("bad"))) {
        return sluice_fail(SLUICE_PERMANENT, "event %llu is bad", (unsigned long long)event->offset);
    }
    if (sluice_equal(word, sluice_text("down"))) return sluice_fail(SLUICE_TRANSIENT, "what it needs is down");
    if (sluice_equal(word, sluice_text("panic"))) {
        sluice_panic("event %llu makes it panic, %s:%d", (unsigned long long)event->offset, __FILE__, __LINE__);
    }
    if (space && sluice_equal(word, sluice_text("say"))) {
        sluice_log(SLUICE_INFO, "%.*s", (int)(text.len - word.len - 1), (const char *)space + 1);
    }
    uint8_t *capitals = (uint8_t *)sluice_scratch(text.len + 1);
    for (uint32_t at = 0; at < text.len; at++) {
        uint8_t c = text.data[at];
        capitals[at] = c >= 'a' && c <= 'z' ? (uint8_t)(c - 32) : c;
    }
    sluice_bytes value = {capitals, text.len};
    return sluice_send(event->key, value);
}

SLUICE_CONSUMER(.process = process)
