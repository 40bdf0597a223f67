//! Write Sluicegate consumers in Zig.
//!
//!     const sluice = @import("sluice");
//!
//!     fn process(event: *const sluice.Event, out: *sluice.Outputs) sluice.Error!void {
//!         try out.send(event.key, event.value);
//!     }
//!
//!     comptime {
//!         sluice.consumer(.{ .process = process });
//!     }
//!
//! An error is a failure of that one event: all that it sent, set and changed is undone, and the other events go on. `return sluice.fail(.transient, "why", .{})`
//! says why, and whether trying again may help. A panic ends the instance: give the root file
//! `pub const panic = sluice.panic;`, and what it says goes to the log and into the dead letter.
//!
//! This is `guest-sdk/wit`'s world `versioned-batch-consumer` by hand. What events, outcomes and headers look like as bytes is told in `runtime/event`.
const std = @import("std");

const memory = std.heap.wasm_allocator;

// ---- What a consumer speaks of ----

/// One header of an event.
pub const Header = struct { name: []const u8, value: []const u8 };

/// An event as a consumer gets it. What it points to is valid during the call.
pub const Event = struct {
    topic: []const u8,
    partition: u32,
    offset: u64,
    /// Milliseconds since the epoch, as the producer said.
    timestamp: i64,
    /// Null where there is none: absent and empty differ.
    key: ?[]const u8,
    value: []const u8,
    header_count: u16,
    header_table: [*]const u8,

    /// The header of this index.
    pub fn header(event: *const Event, index: u16) Header {
        var data = event.value.ptr + event.value.len;
        for (0..index) |at| data += u32At(event.header_table + 8 * at) + u32At(event.header_table + 8 * at + 4);
        const at = event.header_table + 8 * @as(usize, index);
        const name = data[0..u32At(at)];
        return .{ .name = name, .value = (data + name.len)[0..u32At(at + 4)] };
    }
};

/// Which time a timer goes by: the partition's watermark, or the time of day.
pub const Clock = enum(u8) { event_time = 0, wall_clock = 1 };

/// A timer that is due.
pub const Timer = struct { clock: Clock, time: i64, key: []const u8, tag: []const u8 };

/// An event to be sent. What is not set is: the pipeline's first sink, the time of the event or timer in hand, no key, no headers.
pub const Output = struct {
    sink: ?[]const u8 = null,
    timestamp: ?i64 = null,
    key: ?[]const u8 = null,
    value: []const u8,
    headers: []const Header = &.{},
};

/// A value in the state, as it is brought from one version to the next. The key is the whole one, NAME/KEY.
pub const Entry = struct { key: []const u8, value: []const u8, expires: i64 = 0 };

/// Whether trying again may help.
pub const Kind = enum(u8) { transient = 0, permanent = 1 };

pub const Level = enum(i32) { trace, debug, info, warn, err };

pub const Error = error{ Failed, OutOfMemory };

/// What a plugin consists of.
pub const Consumer = struct {
    process: *const fn (event: *const Event, out: *Outputs) anyerror!void,
    fire: ?*const fn (timer: *const Timer, out: *Outputs) anyerror!void = null,
    /// Takes the stage's `config`, as JSON. Without it, a plugin takes none.
    init: ?*const fn (config: []const u8) anyerror!void = null,
    /// Names with `want` what an event will read of the state, so that it is fetched for the whole batch at once.
    wants: ?*const fn (event: *const Event) anyerror!void = null,
    state_version: u32 = 0,
    /// Brings over a value of an older version: what is given to `migrated` stands in its place.
    migrate: ?*const fn (from: u32, entry: Entry) anyerror!void = null,
};

/// Says why the event or timer in hand has failed, and is what is to be returned then.
pub fn fail(kind: Kind, comptime reason: []const u8, arguments: anytype) Error {
    call.kind = kind;
    call.reason = std.fmt.allocPrint(call.arena.allocator(), reason, arguments) catch "out of memory";
    return Error.Failed;
}

/// Writes a line to the node's log.
pub fn log(level: Level, comptime line: []const u8, arguments: anytype) void {
    const text = std.fmt.allocPrint(call.arena.allocator(), line, arguments) catch return;
    host_log.write(@intFromEnum(level), text.ptr, text.len);
}

/// Memory that is valid during the call.
pub fn scratch(len: usize) []u8 {
    return call.arena.allocator().alloc(u8, len) catch unreachable;
}

/// The same, as an allocator.
pub fn allocator() std.mem.Allocator {
    return call.arena.allocator();
}

/// For the root file: what a panic says goes to the log and into the dead letter.
pub const panic = std.debug.FullPanic(struct {
    fn panicked(message: []const u8, _: ?usize) noreturn {
        host_log.panicked(message.ptr, message.len);
        @trap();
    }
}.panicked);

/// Takes what a consumer sends.
pub const Outputs = struct {
    pub fn send(out: *Outputs, key: ?[]const u8, value: []const u8) Error!void {
        try out.put(.{ .key = key, .value = value });
    }

    pub fn put(_: *Outputs, output: Output) Error!void {
        const key = output.key orelse "";
        const start = call.outputs.items.len;
        const out = &call.outputs;
        var fixed: [48]u8 = @splat(0);
        setU16(fixed[4..], if (output.key != null) 3 else 2);
        setU16(fixed[6..], @intCast(output.headers.len));
        setI64(fixed[8..], output.timestamp orelse call.now);
        setU32(fixed[16..], @intCast(key.len));
        setU32(fixed[20..], @intCast(output.value.len));
        setU32(fixed[24..], try sinkOf(output.sink));
        setI64(fixed[32..], call.index);
        setU32(fixed[44..], call.source);
        try out.appendSlice(memory, &fixed);
        for (output.headers) |one| {
            var lengths: [8]u8 = undefined;
            setU32(lengths[0..], @intCast(one.name.len));
            setU32(lengths[4..], @intCast(one.value.len));
            try out.appendSlice(memory, &lengths);
        }
        try out.appendSlice(memory, key);
        try out.appendSlice(memory, output.value);
        for (output.headers) |one| {
            try out.appendSlice(memory, one.name);
            try out.appendSlice(memory, one.value);
        }
        try pad(out, start);
        setU32(out.items[start..], @intCast(out.items.len - start));
        call.output_count += 1;
    }
};

/// Keyed state of some name, with the capability `state`: it outlives instances and crashes, and what an event changes is committed with its outputs. It is that of this
/// stage and partition.
pub const State = struct {
    name: []const u8,

    fn full(state: State, key: []const u8) ![]u8 {
        return std.mem.concat(call.arena.allocator(), u8, &.{ state.name, "/", key });
    }

    pub fn get(state: State, key: []const u8) !?[]const u8 {
        const whole = try state.full(key);
        const known = if (call.slots.getPtr(whole)) |slot| slot.known or slot.changed else false;
        if (!known) try fetch(whole);
        const slot = call.slots.getPtr(whole).?;
        return if (isGone(slot.expires)) null else slot.value;
    }

    pub fn set(state: State, key: []const u8, value: []const u8) !void {
        try change(try state.full(key), value, 0);
    }

    /// Until so many milliseconds after the time of the event or timer in hand.
    pub fn setFor(state: State, key: []const u8, value: []const u8, millis: i64) !void {
        const expires = call.now +| millis;
        try change(try state.full(key), value, if (expires == 0) 1 else expires);
    }

    pub fn delete(state: State, key: []const u8) !void {
        try change(try state.full(key), null, 0);
    }

    /// Names a key that an event will read: in `wants`.
    pub fn want(state: State, key: []const u8) !void {
        try wantKey(try state.full(key));
    }

    /// What is kept under keys that begin with `prefix`, in their order; all of it in memory.
    pub fn scan(state: State, prefix: []const u8) ![]Entry {
        const arena = call.arena.allocator();
        const whole = try state.full(prefix);
        var found: std.StringArrayHashMapUnmanaged(?Entry) = .empty;
        var after: ?[]const u8 = null;
        while (true) {
            const last = after orelse "";
            host_state.scan(whole.ptr, whole.len, @intFromBool(after != null), last.ptr, last.len, 1000, 1 << 20, &list);
            const entries = try entriesAt(list[0], list[1]);
            if (entries.len == 0) break;
            for (entries) |entry| try found.put(arena, entry.key, if (isGone(entry.expires)) null else entry);
            after = entries[entries.len - 1].key;
        }
        var own = call.slots.iterator();
        while (own.next()) |one| {
            const slot = one.value_ptr;
            if (!slot.changed or !std.mem.startsWith(u8, one.key_ptr.*, whole)) continue;
            const value = if (isGone(slot.expires)) null else slot.value;
            try found.put(arena, one.key_ptr.*, if (value) |there| .{ .key = one.key_ptr.*, .value = there } else null);
        }
        var all: std.ArrayList(Entry) = .empty;
        for (found.values()) |entry| {
            if (entry) |there| try all.append(arena, .{ .key = there.key[state.name.len + 1 ..], .value = there.value });
        }
        std.mem.sort(Entry, all.items, {}, struct {
            fn before(_: void, a: Entry, b: Entry) bool {
                return std.mem.lessThan(u8, a.key, b.key);
            }
        }.before);
        return all.items;
    }
};

/// Hands over what stands in the place of a value of an older version.
pub fn migrated(entry: Entry) !void {
    try call.migrated.append(call.arena.allocator(), entry);
}

/// Sets a timer, with the capability `timers`; one with the same key and tag is replaced.
pub fn setTimer(clock: Clock, time: i64, key: []const u8, tag: []const u8) !void {
    try changeTimer(true, clock, time, key, tag);
}

pub fn clearTimer(key: []const u8, tag: []const u8) !void {
    try changeTimer(false, .event_time, 0, key, tag);
}

// ---- How it works ----

const host_log = struct {
    extern "sluicegate:plugin/log@1.1.0" fn write(level: i32, text: [*]const u8, len: usize) void;
    extern "sluicegate:plugin/log@1.1.0" fn panicked(text: [*]const u8, len: usize) void;
};
const host_progress = struct {
    extern "sluicegate:plugin/progress@1.1.0" fn watch(cell: *const u32, len: usize) void;
};
const host_state = struct {
    extern "sluicegate:plugin/state@1.1.0" fn @"get-flat"(keys: [*]const u8, len: usize, result: *[3]u32) void;
    extern "sluicegate:plugin/state@1.1.0" fn scan(
        prefix: [*]const u8,
        len: usize,
        has_after: u32,
        after: [*]const u8,
        after_len: usize,
        limit: u32,
        max_bytes: u32,
        result: *[3]u32,
    ) void;
};

const fixed_bytes = 64;
const never = std.math.minInt(i64);
const Bytes = std.ArrayList(u8);

const Slot = struct {
    value: ?[]const u8 = null,
    expires: i64 = 0,
    known: bool = false,
    changed: bool = false,
    source: u8 = 0,
    index: u32 = 0,
};

const Undo = struct { key: []const u8, before: Slot };

var call: struct {
    arena: std.heap.ArenaAllocator = .init(memory),
    header: [*]const u8 = undefined,
    watermarks: ?[*]const u8 = null,
    count: u32 = 0,
    chained: bool = false,
    topic: []const u8 = "",
    partition: u32 = 0,
    base: u64 = 0,
    source: u8 = 0,
    index: u32 = 0,
    now: i64 = 0,
    watermark: i64 = never,
    rest: [*]const u8 = undefined,
    rest_count: u32 = 0,
    outputs: Bytes = .empty,
    sinks: Bytes = .empty,
    failures: Bytes = .empty,
    states: Bytes = .empty,
    timers: Bytes = .empty,
    output_count: u32 = 0,
    sink_count: u32 = 0,
    failure_count: u32 = 0,
    state_count: u32 = 0,
    timer_count: u32 = 0,
    kind: Kind = .permanent,
    reason: []const u8 = "",
    slots: std.StringArrayHashMapUnmanaged(Slot) = .empty,
    undo: std.ArrayList(Undo) = .empty,
    wanted: std.ArrayList([]const u8) = .empty,
    changed_timers: std.ArrayList(Timer) = .empty,
    migrated: std.ArrayList(Entry) = .empty,
} = .{};

var outs: Outputs = .{};
var in_hand: u32 = 0;
/// What the host hands back, and what is returned: an address and a length, or whether it failed, and these.
var list: [3]u32 = @splat(0);

inline fn u32At(at: [*]const u8) u32 {
    return std.mem.readInt(u32, at[0..4], .little);
}

inline fn i64At(at: [*]const u8) i64 {
    return std.mem.readInt(i64, at[0..8], .little);
}

inline fn setU16(at: []u8, value: u16) void {
    std.mem.writeInt(u16, at[0..2], value, .little);
}

inline fn setU32(at: []u8, value: u32) void {
    std.mem.writeInt(u32, at[0..4], value, .little);
}

inline fn setI64(at: []u8, value: i64) void {
    std.mem.writeInt(i64, at[0..8], value, .little);
}

fn pad(out: *Bytes, start: usize) !void {
    while ((out.items.len - start) % 8 != 0) try out.append(memory, 0);
}

fn sinkOf(name: ?[]const u8) !u32 {
    const wanted = name orelse return 0;
    var at: usize = 0;
    var index: u32 = 1;
    while (at < call.sinks.items.len) : (index += 1) {
        const len = u32At(call.sinks.items.ptr + at);
        if (std.mem.eql(u8, call.sinks.items[at + 4 ..][0..len], wanted)) return index;
        at += 4 + len;
    }
    var len: [4]u8 = undefined;
    setU32(&len, @intCast(wanted.len));
    try call.sinks.appendSlice(memory, &len);
    try call.sinks.appendSlice(memory, wanted);
    call.sink_count += 1;
    return index;
}

fn isGone(expires: i64) bool {
    return expires != 0 and call.watermark != never and expires <= call.watermark;
}

fn wantKey(key: []const u8) !void {
    const arena = call.arena.allocator();
    const found = try call.slots.getOrPut(arena, key);
    if (!found.found_existing) found.value_ptr.* = .{};
    if (found.value_ptr.known or found.value_ptr.changed) return;
    found.value_ptr.known = true;
    try call.wanted.append(arena, key);
}

/// Fetches a value, with those that the rest of the batch wants.
fn fetch(key: []const u8) !void {
    const arena = call.arena.allocator();
    call.wanted.clearRetainingCapacity();
    try wantKey(key);
    if (the_consumer.wants) |wants| {
        var at = call.rest;
        for (0..call.rest_count) |number| {
            const event = eventAt(at, call.count - call.rest_count + @as(u32, @intCast(number)));
            try wants(&event);
            at += u32At(at);
        }
    }
    var keys: Bytes = .empty;
    for (call.wanted.items) |wanted| {
        var len: [4]u8 = undefined;
        setU32(&len, @intCast(wanted.len));
        try keys.appendSlice(arena, &len);
        try keys.appendSlice(arena, wanted);
    }
    host_state.@"get-flat"(keys.items.ptr, keys.items.len, &list);
    var found: [*]const u8 = @ptrFromInt(list[0]);
    for (call.wanted.items) |wanted| {
        const len = u32At(found);
        found += 4;
        if (len == std.math.maxInt(u32)) continue;
        const slot = call.slots.getPtr(wanted).?;
        slot.expires = i64At(found);
        slot.value = try arena.dupe(u8, found[8..][0..len]);
        found += 8 + len;
    }
    release(list[0], list[1]);
}

fn change(key: []const u8, value: ?[]const u8, expires: i64) !void {
    const arena = call.arena.allocator();
    const found = try call.slots.getOrPut(arena, key);
    if (!found.found_existing) found.value_ptr.* = .{};
    try call.undo.append(arena, .{ .key = key, .before = found.value_ptr.* });
    found.value_ptr.* = .{
        .value = if (value) |bytes| try arena.dupe(u8, bytes) else null,
        .expires = expires,
        .known = found.value_ptr.known,
        .changed = true,
        .source = call.source,
        .index = call.index,
    };
}

/// Entries as the host hands them over: per entry key, value, a flag and a time. They are copied, and let go of.
fn entriesAt(at: u32, count: u32) ![]Entry {
    const arena = call.arena.allocator();
    const entries = try arena.alloc(Entry, count);
    if (count == 0) return entries;
    const records: [*]const u8 = @ptrFromInt(at);
    for (entries, 0..) |*entry, number| {
        const record = records + 32 * number;
        entry.* = .{
            .key = try copied(u32At(record), u32At(record + 4)),
            .value = try copied(u32At(record + 8), u32At(record + 12)),
            .expires = if (record[16] != 0) i64At(record + 24) else 0,
        };
    }
    release(at, 32 * count);
    return entries;
}

fn copied(at: u32, len: u32) ![]const u8 {
    if (len == 0) return "";
    const bytes = @as([*]const u8, @ptrFromInt(at))[0..len];
    defer release(at, len);
    return call.arena.allocator().dupe(u8, bytes);
}

fn changeTimer(set: bool, clock: Clock, time: i64, key: []const u8, tag: []const u8) !void {
    const arena = call.arena.allocator();
    const start = call.timers.items.len;
    var record: [32]u8 = @splat(0);
    record[4] = @intFromBool(set);
    record[5] = call.source;
    record[6] = @intFromEnum(clock);
    setU32(record[8..], call.index);
    setU32(record[12..], @intCast(key.len));
    setU32(record[16..], @intCast(tag.len));
    setI64(record[24..], time);
    try call.timers.appendSlice(memory, &record);
    try call.timers.appendSlice(memory, key);
    try call.timers.appendSlice(memory, tag);
    try pad(&call.timers, start);
    setU32(call.timers.items[start..], @intCast(call.timers.items.len - start));
    call.timer_count += 1;
    const own: Timer = .{ .clock = clock, .time = time, .key = try arena.dupe(u8, key), .tag = try arena.dupe(u8, tag) };
    try call.changed_timers.append(arena, own);
}

fn isChanged(timer: *const Timer) bool {
    for (call.changed_timers.items) |other| {
        if (std.mem.eql(u8, other.key, timer.key) and std.mem.eql(u8, other.tag, timer.tag)) return true;
    }
    return false;
}

fn eventAt(at: [*]const u8, index: u32) Event {
    const flags = std.mem.readInt(u16, at[4..6], .little);
    const headers = std.mem.readInt(u16, at[6..8], .little);
    var rest = at + 24;
    var offset = call.base + index;
    if (flags & 2 != 0) {
        if (call.chained) offset = @bitCast(i64At(rest + 8));
        rest += 24;
    }
    const table = rest;
    rest += 8 * @as(usize, headers);
    const key = rest[0..u32At(at + 16)];
    return .{
        .topic = call.topic,
        .partition = call.partition,
        .offset = offset,
        .timestamp = i64At(at + 8),
        .key = if (flags & 1 != 0) key else null,
        .value = (rest + key.len)[0..u32At(at + 20)],
        .header_count = headers,
        .header_table = table,
    };
}

/// Deals with one; whether the call goes on behind it.
fn deal(event: ?*const Event, timer: ?*const Timer) bool {
    const outputs = .{ call.outputs.items.len, call.output_count };
    const timers = .{ call.timers.items.len, call.timer_count, call.changed_timers.items.len };
    call.undo.clearRetainingCapacity();
    in_hand = call.index | @as(u32, if (timer != null) 0x80000000 else 0);
    call.reason = "";
    call.kind = .permanent;
    const told: anyerror!void = if (event) |one|
        the_consumer.process(one, &outs)
    else if (the_consumer.fire) |fire|
        fire(timer.?, &outs)
    else
        fail(.permanent, "a timer fired, and the consumer has no fire", .{});
    const failed = if (told) |_| return true else |err| err;
    const reason = if (call.reason.len > 0) call.reason else @errorName(failed);
    call.outputs.shrinkRetainingCapacity(outputs[0]);
    call.output_count = outputs[1];
    call.timers.shrinkRetainingCapacity(timers[0]);
    call.timer_count = timers[1];
    call.changed_timers.shrinkRetainingCapacity(timers[2]);
    while (call.undo.pop()) |undo| call.slots.getPtr(undo.key).?.* = undo.before;
    const start = call.failures.items.len;
    var record: [16]u8 = @splat(0);
    record[4] = call.source;
    record[5] = @intFromEnum(call.kind);
    setU32(record[8..], call.index);
    setU32(record[12..], @intCast(reason.len));
    call.failures.appendSlice(memory, &record) catch unreachable;
    call.failures.appendSlice(memory, reason) catch unreachable;
    pad(&call.failures, start) catch unreachable;
    setU32(call.failures.items[start..], @intCast(call.failures.items.len - start));
    call.failure_count += 1;
    return call.kind == .permanent;
}

fn begin() void {
    _ = call.arena.reset(.{ .retain_with_limit = 1 << 20 });
    call.slots = .empty;
    call.undo = .empty;
    call.wanted = .empty;
    call.changed_timers = .empty;
    call.migrated = .empty;
}

fn writeStates() !void {
    var all = call.slots.iterator();
    while (all.next()) |one| {
        const slot = one.value_ptr;
        if (!slot.changed) continue;
        const value = slot.value orelse "";
        const start = call.states.items.len;
        var record: [32]u8 = @splat(0);
        record[4] = @intFromBool(slot.value != null);
        record[5] = slot.source;
        setU32(record[8..], slot.index);
        setU32(record[12..], @intCast(one.key_ptr.len));
        setU32(record[16..], @intCast(value.len));
        setI64(record[24..], if (slot.value != null) slot.expires else 0);
        try call.states.appendSlice(memory, &record);
        try call.states.appendSlice(memory, one.key_ptr.*);
        try call.states.appendSlice(memory, value);
        try pad(&call.states, start);
        setU32(call.states.items[start..], @intCast(call.states.items.len - start));
        call.state_count += 1;
    }
}

fn processBatch(header: [*]const u8, header_len: usize, events: [*]const u8, events_len: usize) callconv(.c) *[3]u32 {
    const due_count = u32At(header + 12);
    const due_len = u32At(header + 16);
    const name_len = u32At(header + 56);
    var due = header + fixed_bytes + ((name_len + 7) & ~@as(u32, 7));
    begin();
    call.header = header;
    call.count = u32At(header + 8);
    call.chained = u32At(header + 20) & 1 != 0;
    call.watermarks = if (u32At(header + 20) & 2 != 0) due + due_len else null;
    call.base = @bitCast(i64At(header + 24));
    call.partition = u32At(header + 52);
    call.topic = (header + fixed_bytes)[0..name_len];
    inline for (.{ &call.outputs, &call.sinks, &call.failures, &call.states, &call.timers }) |part| part.clearRetainingCapacity();
    call.output_count, call.sink_count, call.failure_count = .{ 0, 0, 0 };
    call.state_count, call.timer_count = .{ 0, 0 };
    call.outputs.appendNTimes(memory, 0, fixed_bytes) catch unreachable;
    var event_at = events;
    var processed: u32 = 0;
    var fired: u32 = 0;
    var goes_on = true;
    while (goes_on and (processed < call.count or fired < due_count)) {
        call.watermark = if (call.watermarks) |marks| i64At(marks + 8 * @as(usize, processed)) else i64At(header + 32);
        call.rest = event_at;
        call.rest_count = call.count - processed;
        if (fired < due_count and u32At(due + 16) <= processed) {
            const key = (due + 32)[0..u32At(due + 24)];
            const timer: Timer = .{
                .clock = @enumFromInt(due[4]),
                .time = i64At(due + 8),
                .key = key,
                .tag = (due + 32 + key.len)[0..u32At(due + 28)],
            };
            call.source, call.index, call.now = .{ 1, fired, timer.time };
            // Cleared in this call, or set anew: it is as good as fired.
            if (!isChanged(&timer)) goes_on = deal(null, &timer);
            due += u32At(due);
            fired += @intFromBool(goes_on);
        } else if (processed < call.count) {
            const event = eventAt(event_at, processed);
            call.source, call.index, call.now = .{ 0, processed, event.timestamp };
            goes_on = deal(&event, null);
            event_at += u32At(event_at);
            processed += @intFromBool(goes_on);
        } else break;
    }
    writeStates() catch unreachable;
    const out = &call.outputs;
    const words = [_]usize{
        processed,             fired,
        call.output_count,     out.items.len - fixed_bytes,
        call.sink_count,       call.sinks.items.len,
        call.failure_count,    call.failures.items.len,
        call.state_count,      call.states.items.len,
        call.timer_count,      call.timers.items.len,
    };
    @memcpy(out.items[0..8], "SLGO\x01\x00\x40\x00");
    for (words, 0..) |word, at| setU32(out.items[8 + 4 * at ..], @intCast(word));
    out.appendSlice(memory, call.sinks.items) catch unreachable;
    pad(out, 0) catch unreachable;
    inline for (.{ &call.failures, &call.states, &call.timers }) |part| out.appendSlice(memory, part.items) catch unreachable;
    release(@intFromPtr(header), @intCast(header_len));
    release(@intFromPtr(events), @intCast(events_len));
    list = .{ @intFromPtr(out.items.ptr), @intCast(out.items.len), 0 };
    return &list;
}

fn answer(told: anyerror!void) *[3]u32 {
    list = @splat(0);
    told catch |err| {
        const reason = if (call.reason.len > 0) call.reason else @errorName(err);
        list = .{ 1, @intFromPtr(reason.ptr), @intCast(reason.len) };
    };
    return &list;
}

fn initialize(config: [*]const u8, len: usize) callconv(.c) *[3]u32 {
    host_progress.watch(&in_hand, 4);
    call.reason = "";
    if (the_consumer.init) |init| return answer(init(config[0..len]));
    if (std.mem.eql(u8, config[0..len], "{}")) return answer({});
    return answer(fail(.permanent, "config: this consumer takes none", .{}));
}

fn stateVersion() callconv(.c) u32 {
    return the_consumer.state_version;
}

fn migrateAll(from: u32, entries: u32, count: u32) callconv(.c) *[3]u32 {
    begin();
    call.reason = "";
    const told = migrateEach(from, entries, count);
    if (told) |records| list = .{ 0, @intFromPtr(records.ptr), @intCast(call.migrated.items.len) } else |err| return answer(err);
    return &list;
}

fn migrateEach(from: u32, at: u32, count: u32) anyerror![]u8 {
    const entries = try entriesAt(at, count);
    for (entries) |entry| {
        if (the_consumer.migrate) |migrate| try migrate(from, entry) else return fail(.permanent, "the consumer has no migrate", .{});
    }
    const records = try call.arena.allocator().alignedAlloc(u8, .of(u64), 32 * call.migrated.items.len + 8);
    @memset(records, 0);
    for (call.migrated.items, 0..) |entry, number| {
        const record = records[32 * number ..];
        setU32(record[0..], @intFromPtr(entry.key.ptr));
        setU32(record[4..], @intCast(entry.key.len));
        setU32(record[8..], @intFromPtr(entry.value.ptr));
        setU32(record[12..], @intCast(entry.value.len));
        record[16] = @intFromBool(entry.expires != 0);
        setI64(record[24..], entry.expires);
    }
    return records;
}

/// Memory for what the host hands over.
fn reallocate(old: u32, old_len: u32, alignment: u32, len: u32) callconv(.c) u32 {
    _ = .{ old, alignment };
    if (len == 0) return 8;
    std.debug.assert(old_len == 0);
    const bytes = memory.alignedAlloc(u8, .of(u64), len) catch @panic("out of memory");
    return @intFromPtr(bytes.ptr);
}

fn release(at: u32, len: u32) void {
    if (len == 0) return;
    const bytes: [*]align(8) u8 = @ptrFromInt(at);
    memory.free(bytes[0..len]);
}

var the_consumer: Consumer = undefined;

/// Says what the plugin consists of; to be called at comptime, once.
pub fn consumer(comptime own: Consumer) void {
    const S = struct {
        fn start(config: [*]const u8, len: usize) callconv(.c) *[3]u32 {
            the_consumer = own;
            return initialize(config, len);
        }

        fn version() callconv(.c) u32 {
            return own.state_version;
        }
    };
    @export(&S.start, .{ .name = "sluicegate:plugin/lifecycle@1.1.0#init" });
    @export(&S.version, .{ .name = "sluicegate:plugin/versioned-state@1.1.0#version" });
    @export(&migrateAll, .{ .name = "sluicegate:plugin/versioned-state@1.1.0#migrate" });
    @export(&processBatch, .{ .name = "sluicegate:plugin/batch@1.1.0#process" });
    @export(&reallocate, .{ .name = "cabi_realloc" });
}

/// Reads fields of JSON objects in place: several times faster than `std.json`, which makes values of all there is.
pub const json = struct {
    const Reader = struct {
        text: []const u8,
        at: usize = 0,
        /// The string that was passed over last, without its quotes.
        string: []const u8 = "",
        escaped: bool = false,

        fn space(reader: *Reader) void {
            while (reader.at < reader.text.len) : (reader.at += 1) switch (reader.text[reader.at]) {
                ' ', '\n', '\t', '\r' => {},
                else => return,
            };
        }

        fn next(reader: *Reader, c: u8) bool {
            const is = reader.at < reader.text.len and reader.text[reader.at] == c;
            reader.at += @intFromBool(is);
            return is;
        }

        fn passString(reader: *Reader) bool {
            if (!reader.next('"')) return false;
            const start = reader.at;
            reader.escaped = false;
            while (reader.at < reader.text.len) : (reader.at += 1) switch (reader.text[reader.at]) {
                '"' => {
                    reader.string = reader.text[start..reader.at];
                    reader.at += 1;
                    return true;
                },
                0...0x1f => return false,
                '\\' => {
                    reader.escaped = true;
                    reader.at += 1;
                },
                else => {},
            };
            return false;
        }

        fn digits(reader: *Reader) usize {
            const start = reader.at;
            while (reader.at < reader.text.len and std.ascii.isDigit(reader.text[reader.at])) reader.at += 1;
            return reader.at - start;
        }

        fn passNumber(reader: *Reader) bool {
            _ = reader.next('-');
            const is_zero = reader.at < reader.text.len and reader.text[reader.at] == '0';
            const count = reader.digits();
            if (count == 0 or (is_zero and count > 1)) return false;
            if (reader.next('.') and reader.digits() == 0) return false;
            if (reader.next('e') or reader.next('E')) {
                if (!reader.next('+')) _ = reader.next('-');
                if (reader.digits() == 0) return false;
            }
            return true;
        }

        fn word(reader: *Reader, letters: []const u8) bool {
            if (!std.mem.startsWith(u8, reader.text[reader.at..], letters)) return false;
            reader.at += letters.len;
            return true;
        }

        fn skip(reader: *Reader, depth: u8) bool {
            if (depth > 64 or reader.at >= reader.text.len) return false;
            const first = reader.text[reader.at];
            switch (first) {
                '"' => return reader.passString(),
                't' => return reader.word("true"),
                'f' => return reader.word("false"),
                'n' => return reader.word("null"),
                '{', '[' => {
                    reader.at += 1;
                    reader.space();
                    if (reader.next(first + 2)) return true;
                    while (true) {
                        reader.space();
                        if (first == '{') {
                            if (!reader.passString()) return false;
                            reader.space();
                            if (!reader.next(':')) return false;
                            reader.space();
                        }
                        if (!reader.skip(depth + 1)) return false;
                        reader.space();
                        if (reader.next(first + 2)) return true;
                        if (!reader.next(',')) return false;
                    }
                },
                else => return reader.passNumber(),
            }
        }
    };

    /// The values of these fields of an object, as they stand there; null for those that it has not, and null for what is no object. Others are passed over.
    pub fn fields(text: []const u8, comptime names: []const []const u8) ?[names.len]?[]const u8 {
        var found: [names.len]?[]const u8 = @splat(null);
        var reader: Reader = .{ .text = text };
        reader.space();
        if (!reader.next('{')) return null;
        reader.space();
        if (!reader.next('}')) {
            while (true) {
                reader.space();
                if (!reader.passString()) return null;
                const name = reader.string;
                reader.space();
                if (!reader.next(':')) return null;
                reader.space();
                const start = reader.at;
                if (!reader.skip(0)) return null;
                inline for (names, 0..) |own, index| {
                    if (std.mem.eql(u8, name, own)) found[index] = text[start..reader.at];
                }
                reader.space();
                if (!reader.next(',')) break;
            }
            if (!reader.next('}')) return null;
        }
        reader.space();
        return if (reader.at == text.len) found else null;
    }

    /// A value that is a whole number.
    pub fn integer(value: ?[]const u8) ?i64 {
        const text = value orelse return null;
        if (text.len == 0 or text[0] == '"' or text[0] == '+') return null;
        for (text) |c| if (c == '_') return null;
        return std.fmt.parseInt(i64, text, 10) catch null;
    }

    /// The text of a value that is a string.
    pub fn string(value: ?[]const u8) ?[]const u8 {
        const text = value orelse return null;
        var reader: Reader = .{ .text = text };
        if (!reader.passString() or reader.at != text.len) return null;
        if (!std.unicode.utf8ValidateSlice(reader.string)) return null;
        if (!reader.escaped) return reader.string;
        return std.json.parseFromSliceLeaky([]const u8, allocator(), text, .{}) catch null;
    }
};
