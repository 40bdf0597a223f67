// Reads and writes JSON, as far as consumers in C need it: fields of an object, in place.
#ifndef SLUICE_JSON_H
#define SLUICE_JSON_H

#include "sluice.h"

typedef struct {
    const uint8_t *at, *end;
} sluice_json_;

static inline void sluice_json_space_(sluice_json_ *json) {
    while (json->at < json->end && (*json->at == ' ' || *json->at == '\n' || *json->at == '\t' || *json->at == '\r')) json->at++;
}

// A string, its quotes not included; whether it was one, and whether it has escapes.
static inline bool sluice_json_string_(sluice_json_ *json, sluice_bytes *text, bool *escaped) {
    if (json->at >= json->end || *json->at != '"') return false;
    const uint8_t *start = ++json->at;
    *escaped = false;
    for (; json->at < json->end; json->at++) {
        if (*json->at == '"') {
            text->data = start, text->len = (uint32_t)(json->at++ - start);
            return true;
        }
        if (*json->at < 0x20) return false;
        if (*json->at == '\\') *escaped = true, json->at++;
    }
    return false;
}

static inline bool sluice_json_number_(sluice_json_ *json) {
    if (json->at < json->end && *json->at == '-') json->at++;
    const uint8_t *start = json->at;
    while (json->at < json->end && *json->at >= '0' && *json->at <= '9') json->at++;
    if (json->at == start || (*start == '0' && json->at > start + 1)) return false;
    if (json->at < json->end && *json->at == '.') {
        start = ++json->at;
        while (json->at < json->end && *json->at >= '0' && *json->at <= '9') json->at++;
        if (json->at == start) return false;
    }
    if (json->at < json->end && (*json->at == 'e' || *json->at == 'E')) {
        json->at++;
        if (json->at < json->end && (*json->at == '+' || *json->at == '-')) json->at++;
        start = json->at;
        while (json->at < json->end && *json->at >= '0' && *json->at <= '9') json->at++;
        if (json->at == start) return false;
    }
    return true;
}

// Passes over a value of whatever kind.
static bool sluice_json_skip_(sluice_json_ *json, int depth) {
    sluice_bytes text;
    bool escaped;
    if (depth > 64 || json->at >= json->end) return false;
    uint8_t first = *json->at;
    if (first == '"') return sluice_json_string_(json, &text, &escaped);
    if (first == '{' || first == '[') {
        uint8_t last = first == '{' ? '}' : ']';
        json->at++;
        sluice_json_space_(json);
        if (json->at < json->end && *json->at == last) return json->at++, true;
        for (;;) {
            sluice_json_space_(json);
            if (first == '{') {
                if (!sluice_json_string_(json, &text, &escaped)) return false;
                sluice_json_space_(json);
                if (json->at >= json->end || *json->at++ != ':') return false;
                sluice_json_space_(json);
            }
            if (!sluice_json_skip_(json, depth + 1)) return false;
            sluice_json_space_(json);
            if (json->at >= json->end) return false;
            if (*json->at == last) return json->at++, true;
            if (*json->at++ != ',') return false;
        }
    }
    const char *words[3] = {"true", "false", "null"};
    for (int word = 0; word < 3; word++) {
        size_t len = strlen(words[word]);
        if ((size_t)(json->end - json->at) >= len && memcmp(json->at, words[word], len) == 0) return json->at += len, true;
    }
    return sluice_json_number_(json);
}

// A field of an object: its name, and its value as it stands there. NULL where there is none.
typedef struct {
    const char *name;
    sluice_bytes value;
} sluice_json_field;

// Finds fields of the object that a text is; what it has besides is passed over, or is unknown. Whether the text is one.
SLUICE_API bool sluice_json_object(sluice_bytes text, sluice_json_field *fields, uint32_t count, bool *unknown) {
    sluice_json_ json = {text.data, text.data + text.len};
    for (uint32_t at = 0; at < count; at++) fields[at].value.data = NULL, fields[at].value.len = 0;
    if (unknown) *unknown = false;
    sluice_json_space_(&json);
    if (json.at >= json.end || *json.at++ != '{') return false;
    sluice_json_space_(&json);
    bool more = !(json.at < json.end && *json.at == '}');
    if (!more) json.at++;
    while (more) {
        sluice_bytes name;
        bool escaped;
        sluice_json_space_(&json);
        if (!sluice_json_string_(&json, &name, &escaped)) return false;
        sluice_json_space_(&json);
        if (json.at >= json.end || *json.at++ != ':') return false;
        sluice_json_space_(&json);
        const uint8_t *start = json.at;
        if (!sluice_json_skip_(&json, 0)) return false;
        bool found = false;
        for (uint32_t at = 0; at < count; at++) {
            if (strlen(fields[at].name) == name.len && memcmp(fields[at].name, name.data, name.len) == 0) {
                fields[at].value.data = start, fields[at].value.len = (uint32_t)(json.at - start), found = true;
            }
        }
        if (unknown && !found) *unknown = true;
        sluice_json_space_(&json);
        if (json.at >= json.end) return false;
        more = *json.at == ',';
        if (!more && *json.at != '}') return false;
        json.at++;
    }
    sluice_json_space_(&json);
    return json.at == json.end;
}

// A value that is a whole number.
SLUICE_API bool sluice_json_int(sluice_bytes value, int64_t *number) {
    uint32_t at = value.len && value.data[0] == '-';
    bool negative = at;
    int64_t sum = 0;
    if (at >= value.len || value.len - at > 18) return false;
    for (; at < value.len; at++) {
        if (value.data[at] < '0' || value.data[at] > '9') return false;
        sum = sum * 10 + (value.data[at] - '0');
    }
    *number = negative ? -sum : sum;
    return true;
}

static inline uint32_t sluice_json_hex_(const uint8_t *at) {
    uint32_t code = 0;
    for (int digit = 0; digit < 4; digit++) {
        uint8_t c = at[digit];
        uint32_t value = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 16;
        if (value > 15) return UINT32_MAX;
        code = code << 4 | value;
    }
    return code;
}

// The text of a value that is a string.
SLUICE_API bool sluice_json_text(sluice_bytes value, sluice_bytes *text) {
    sluice_json_ json = {value.data, value.data + value.len};
    bool escaped;
    if (!sluice_json_string_(&json, text, &escaped) || json.at != json.end) return false;
    if (!escaped) return true;
    uint8_t *out = (uint8_t *)sluice_scratch(text->len), *to = out;
    for (const uint8_t *at = text->data, *end = at + text->len; at < end; at++) {
        if (*at != '\\') {
            *to++ = *at;
            continue;
        }
        const char *from = "\"\\/bfnrt", *plain = "\"\\/\b\f\n\r\t", *found = strchr(from, *++at);
        if (found && *found) {
            *to++ = (uint8_t)plain[found - from];
            continue;
        }
        if (*at != 'u' || end - at < 5) return false;
        uint32_t code = sluice_json_hex_(at + 1);
        at += 4;
        if (code >= 0xd800 && code < 0xdc00 && end - at > 6 && at[1] == '\\' && at[2] == 'u') {
            uint32_t low = sluice_json_hex_(at + 3);
            if (low < 0xdc00 || low > 0xdfff) return false;
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00), at += 6;
        }
        if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
        if (code < 0x80) {
            *to++ = (uint8_t)code;
        } else if (code < 0x800) {
            *to++ = (uint8_t)(0xc0 | code >> 6), *to++ = (uint8_t)(0x80 | (code & 63));
        } else if (code < 0x10000) {
            *to++ = (uint8_t)(0xe0 | code >> 12), *to++ = (uint8_t)(0x80 | (code >> 6 & 63)), *to++ = (uint8_t)(0x80 | (code & 63));
        } else {
            *to++ = (uint8_t)(0xf0 | code >> 18), *to++ = (uint8_t)(0x80 | (code >> 12 & 63));
            *to++ = (uint8_t)(0x80 | (code >> 6 & 63)), *to++ = (uint8_t)(0x80 | (code & 63));
        }
    }
    text->data = out, text->len = (uint32_t)(to - out);
    return true;
}

// A text under construction, in memory that is valid until the event in hand is dealt with.
typedef struct {
    uint8_t *data;
    uint32_t len, room;
} sluice_json_writer;

SLUICE_API void sluice_json_raw(sluice_json_writer *out, const void *data, uint32_t len) {
    if (out->room - out->len < len) {
        uint32_t room = (out->room + len) * 2 + 64;
        uint8_t *data_ = (uint8_t *)sluice_scratch(room);
        if (out->len) memcpy(data_, out->data, out->len);
        out->data = data_, out->room = room;
    }
    if (len) memcpy(out->data + out->len, data, len);
    out->len += len;
}

SLUICE_API void sluice_json_put(sluice_json_writer *out, const char *text) { sluice_json_raw(out, text, (uint32_t)strlen(text)); }

SLUICE_API void sluice_json_put_int(sluice_json_writer *out, int64_t number) {
    char digits[24];
    char *at = digits + sizeof digits;
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    do *--at = (char)('0' + rest % 10);
    while (rest /= 10);
    if (number < 0) *--at = '-';
    sluice_json_raw(out, at, (uint32_t)(digits + sizeof digits - at));
}

SLUICE_API void sluice_json_put_text(sluice_json_writer *out, sluice_bytes text) {
    sluice_json_raw(out, "\"", 1);
    uint32_t start = 0;
    for (uint32_t at = 0; at < text.len; at++) {
        uint8_t c = text.data[at];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        sluice_json_raw(out, text.data + start, at - start);
        start = at + 1;
        const char *plain = "\"\\\b\f\n\r\t", *names = "\"\\bfnrt", *found = c ? strchr(plain, c) : NULL;
        char escape[8];
        if (found) {
            escape[0] = '\\', escape[1] = names[found - plain];
            sluice_json_raw(out, escape, 2);
        } else {
            snprintf(escape, sizeof escape, "\\u%04x", c);
            sluice_json_raw(out, escape, 6);
        }
    }
    sluice_json_raw(out, text.data + start, text.len - start);
    sluice_json_raw(out, "\"", 1);
}

#endif
