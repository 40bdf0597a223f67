// Reads and writes JSON, as far as consumers in AssemblyScript need it: fields of an object, in place.
import { Bytes } from "./sluice";

let at: usize = 0;
let end: usize = 0;
/** The string that was passed over last: what each would allocate is most of what reading costs. */
let textAt: usize = 0;
let textLength: i32 = 0;
let hasEscapes: bool = false;

function space(): void {
  while (at < end) {
    const c = load<u8>(at);
    if (c != 0x20 && c != 0x0a && c != 0x09 && c != 0x0d) return;
    at++;
  }
}

function next(c: u8): bool {
  if (at >= end || load<u8>(at) != c) return false;
  at++;
  return true;
}

/** A string: `textAt` and `textLength`, without its quotes. */
function passString(): bool {
  if (!next(0x22)) return false;
  const start = at;
  hasEscapes = false;
  for (; at < end; at++) {
    const c = load<u8>(at);
    if (c == 0x22) {
      textAt = start;
      textLength = <i32>(at - start);
      at++;
      return true;
    }
    if (c < 0x20) return false;
    if (c == 0x5c) {
      hasEscapes = true;
      at++;
    }
  }
  return false;
}

function digits(): i32 {
  const start = at;
  while (at < end && <u8>(load<u8>(at) - 0x30) < 10) at++;
  return <i32>(at - start);
}

function passNumber(): bool {
  next(0x2d);
  const isZero = at < end && load<u8>(at) == 0x30;
  const count = digits();
  if (count == 0 || (isZero && count > 1)) return false;
  if (next(0x2e) && digits() == 0) return false;
  if (next(0x65) || next(0x45)) {
    if (!next(0x2b)) next(0x2d);
    if (digits() == 0) return false;
  }
  return true;
}

function word(letters: string): bool {
  if (end - at < <usize>letters.length) return false;
  for (let i = 0; i < letters.length; i++) if (load<u8>(at + i) != <u8>letters.charCodeAt(i)) return false;
  at += letters.length;
  return true;
}

/** Passes over a value of whatever kind. */
function skip(depth: i32): bool {
  if (depth > 64 || at >= end) return false;
  const first = load<u8>(at);
  if (first == 0x22) return passString();
  if (first == 0x7b || first == 0x5b) {
    const last: u8 = first + 2;
    at++;
    space();
    if (next(last)) return true;
    while (true) {
      space();
      if (first == 0x7b) {
        if (!passString()) return false;
        space();
        if (!next(0x3a)) return false;
        space();
      }
      if (!skip(depth + 1)) return false;
      space();
      if (next(last)) return true;
      if (!next(0x2c)) return false;
    }
  }
  if (first == 0x74) return word("true");
  if (first == 0x66) return word("false");
  if (first == 0x6e) return word("null");
  return passNumber();
}

/** The fields of an object that somebody asks for: their values as they stand there. */
export class Fields {
  private names: StaticArray<Bytes>;
  /** Where each begins; 0 where there is none. */
  private starts: StaticArray<usize>;
  private lengths: StaticArray<i32>;
  /** Texts, each made once: an object for each would cost more than reading it. */
  private texts: StaticArray<Bytes>;
  /** There are fields that nobody has asked for. */
  hasOthers: bool = false;

  constructor(names: string[]) {
    this.names = new StaticArray<Bytes>(names.length);
    this.starts = new StaticArray<usize>(names.length);
    this.lengths = new StaticArray<i32>(names.length);
    this.texts = new StaticArray<Bytes>(names.length);
    for (let i = 0; i < names.length; i++) {
      this.names[i] = Bytes.of(names[i]);
      this.texts[i] = new Bytes(0, 0);
    }
  }

  /** Reads an object; false where it is none. */
  read(object: Bytes): bool {
    const names = this.names, starts = this.starts, count = names.length;
    at = object.ptr;
    end = at + object.length;
    this.hasOthers = false;
    for (let i = 0; i < count; i++) unchecked((starts[i] = 0));
    space();
    if (!next(0x7b)) return false;
    space();
    if (!next(0x7d)) {
      do {
        space();
        if (!passString()) return false;
        const name = textAt, length = textLength;
        space();
        if (!next(0x3a)) return false;
        space();
        const start = at;
        if (!skip(0)) return false;
        let found = false;
        for (let i = 0; i < count; i++) {
          const own = unchecked(names[i]);
          if (own.length != length || memory.compare(own.ptr, name, length) != 0) continue;
          unchecked((starts[i] = start));
          unchecked((this.lengths[i] = <i32>(at - start)));
          found = true;
        }
        this.hasOthers = this.hasOthers || !found;
        space();
      } while (next(0x2c));
      if (!next(0x7d)) return false;
    }
    space();
    return at == end;
  }

  has(index: i32): bool {
    return this.starts[index] != 0;
  }

  /** Whether a field is a whole number; `integer` is that. */
  isInteger(index: i32): bool {
    const start = this.starts[index];
    if (start == 0) return false;
    const length = this.lengths[index];
    const first = length > 0 && load<u8>(start) == 0x2d ? 1 : 0;
    if (length == first || length - first > 18) return false;
    for (let i = first; i < length; i++) if (<u8>(load<u8>(start + i) - 0x30) > 9) return false;
    return true;
  }

  integer(index: i32): i64 {
    const start = this.starts[index], length = this.lengths[index];
    const isNegative = load<u8>(start) == 0x2d;
    let sum: i64 = 0;
    for (let i = isNegative ? 1 : 0; i < length; i++) sum = sum * 10 + (load<u8>(start + i) - 0x30);
    return isNegative ? -sum : sum;
  }

  /** The text of a field that is a string, valid until the next `read`; null where it is none. */
  string(index: i32): Bytes | null {
    at = this.starts[index];
    if (at == 0) return null;
    end = at + this.lengths[index];
    if (!passString() || at != end) return null;
    const raw = unchecked(this.texts[index]);
    raw.ptr = textAt;
    raw.length = textLength;
    return hasEscapes ? unescaped(raw) : raw;
  }
}

function hex(from: usize): i32 {
  let code = 0;
  for (let i = 0; i < 4; i++) {
    const c = load<u8>(from + i);
    const lower = c | 0x20;
    const digit = <u8>(c - 0x30) < 10 ? c - 0x30 : lower >= 0x61 && lower <= 0x66 ? lower - 0x61 + 10 : 16;
    if (digit > 15) return -1;
    code = (code << 4) | digit;
  }
  return code;
}

function unescaped(raw: Bytes): Bytes | null {
  const out = Bytes.make(raw.length);
  let to = 0;
  for (let i = 0; i < raw.length; i++) {
    if (raw[i] != 0x5c) {
      out[to++] = raw[i];
      continue;
    }
    const c = raw[++i];
    let plain: i32 = -1;
    if (c == 0x22 || c == 0x5c || c == 0x2f) plain = c;
    else if (c == 0x62) plain = 8;
    else if (c == 0x66) plain = 12;
    else if (c == 0x6e) plain = 10;
    else if (c == 0x72) plain = 13;
    else if (c == 0x74) plain = 9;
    if (plain >= 0) {
      out[to++] = <u8>plain;
      continue;
    }
    if (c != 0x75 || raw.length - i < 5) return null;
    let code = hex(raw.ptr + i + 1);
    i += 4;
    if (code >= 0xd800 && code < 0xdc00 && raw.length - i > 6 && raw[i + 1] == 0x5c && raw[i + 2] == 0x75) {
      const low = hex(raw.ptr + i + 3);
      if (low < 0xdc00 || low > 0xdfff) return null;
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      i += 6;
    }
    if (code < 0 || (code >= 0xd800 && code < 0xe000)) return null;
    if (code < 0x80) {
      out[to++] = <u8>code;
    } else if (code < 0x800) {
      out[to++] = <u8>(0xc0 | (code >> 6));
      out[to++] = <u8>(0x80 | (code & 63));
    } else if (code < 0x10000) {
      out[to++] = <u8>(0xe0 | (code >> 12));
      out[to++] = <u8>(0x80 | ((code >> 6) & 63));
      out[to++] = <u8>(0x80 | (code & 63));
    } else {
      out[to++] = <u8>(0xf0 | (code >> 18));
      out[to++] = <u8>(0x80 | ((code >> 12) & 63));
      out[to++] = <u8>(0x80 | ((code >> 6) & 63));
      out[to++] = <u8>(0x80 | (code & 63));
    }
  }
  out.length = to;
  return out;
}

/** A text under construction. */
export class Writer {
  private bytes: Bytes = Bytes.make(256);
  private told: Bytes = new Bytes(0, 0);
  private length: i32 = 0;

  /** Begins anew, in the same memory: what was written before is gone. */
  clear(): Writer {
    this.length = 0;
    return this;
  }

  private room(more: i32): usize {
    if (this.bytes.length - this.length < more) {
      const larger = Bytes.make((this.length + more) * 2);
      memory.copy(larger.ptr, this.bytes.ptr, this.length);
      this.bytes = larger;
    }
    const from = this.bytes.ptr + this.length;
    this.length += more;
    return from;
  }

  /** Something that is JSON already, of ASCII. */
  raw(text: string): Writer {
    const to = this.room(text.length);
    for (let i = 0; i < text.length; i++) store<u8>(to + i, <u8>text.charCodeAt(i));
    return this;
  }

  integer(value: i64): Writer {
    let rest = value < 0 ? 0 - <u64>value : <u64>value;
    let length = value < 0 ? 2 : 1;
    for (let more = rest; more >= 10; more /= 10) length++;
    let to = this.room(length) + length;
    do {
      store<u8>(--to, <u8>(0x30 + rest % 10));
      rest /= 10;
    } while (rest > 0);
    if (value < 0) store<u8>(--to, 0x2d);
    return this;
  }

  string(value: Bytes): Writer {
    let isPlain = true;
    for (let i = 0; i < value.length && isPlain; i++) isPlain = value[i] >= 0x20 && value[i] != 0x22 && value[i] != 0x5c;
    if (isPlain) {
      const to = this.room(value.length + 2);
      store<u8>(to, 0x22);
      memory.copy(to + 1, value.ptr, value.length);
      store<u8>(to + 1 + value.length, 0x22);
      return this;
    }
    this.raw('"');
    for (let i = 0; i < value.length; i++) {
      const c = value[i];
      if (c >= 0x20 && c != 0x22 && c != 0x5c) {
        store<u8>(this.room(1), c);
        continue;
      }
      if (c == 0x22) this.raw('\\"');
      else if (c == 0x5c) this.raw("\\\\");
      else if (c == 8) this.raw("\\b");
      else if (c == 12) this.raw("\\f");
      else if (c == 10) this.raw("\\n");
      else if (c == 13) this.raw("\\r");
      else if (c == 9) this.raw("\\t");
      else this.raw("\\u00" + (c < 16 ? "0" : "") + (<u32>c).toString(16));
    }
    return this.raw('"');
  }

  /** What was written; valid until it is written to again. */
  done(): Bytes {
    this.told.ptr = this.bytes.ptr;
    this.told.length = this.length;
    return this.told;
  }
}

/** Whether bytes are UTF-8. */
export function isUtf8(bytes: Bytes): bool {
  for (let i = 0; i < bytes.length; ) {
    const first = bytes[i++];
    if (first < 0x80) continue;
    const more = first >= 0xf0 && first < 0xf5 ? 3 : first >= 0xe0 && first < 0xf0 ? 2 : first >= 0xc2 && first < 0xe0 ? 1 : 0;
    if (more == 0 || bytes.length - i < more) return false;
    let code: u32 = (<u32>first) & (0x3f >> more);
    for (let k = 0; k < more; k++, i++) {
      if ((bytes[i] & 0xc0) != 0x80) return false;
      code = (code << 6) | (bytes[i] & 0x3f);
    }
    const least: u32 = more == 3 ? 0x10000 : more == 2 ? 0x800 : 0x80;
    if (code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
  }
  return true;
}
