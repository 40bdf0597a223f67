//! Counts visits under each key until nothing has come for a second.
const std = @import("std");
const sluice = @import("sluice");

pub const panic = sluice.panic;

const visits: sluice.State = .{ .name = "visits" };

fn text(comptime format: []const u8, arguments: anytype) ![]u8 {
    return std.fmt.allocPrint(sluice.allocator(), format, arguments);
}

fn countOf(key: []const u8) !u64 {
    return std.fmt.parseInt(u64, try visits.get(key) orelse "0", 10);
}

fn wants(event: *const sluice.Event) !void {
    if (event.key) |key| try visits.want(key);
}

fn process(event: *const sluice.Event, out: *sluice.Outputs) !void {
    const key = event.key orelse return sluice.fail(.permanent, "the event has no key", .{});
    const before = try countOf(key);
    if (std.mem.startsWith(u8, event.value, "who ")) {
        for (try visits.scan(event.value[4..])) |entry| try out.send(entry.key, entry.value);
        return;
    }
    if (std.mem.eql(u8, event.value, "bye")) {
        try visits.delete(key);
        try sluice.clearTimer(key, "idle");
        try sluice.clearTimer(key, "third");
        return out.send(key, try text("bye {d}", .{before}));
    }
    try visits.set(key, try text("{d}", .{before + 1}));
    try sluice.setTimer(.event_time, event.timestamp + 1000, key, "idle");
    if ((before + 1) % 3 == 0) try sluice.setTimer(.event_time, event.timestamp + 500, key, "third");
    // All of it is undone.
    if (std.mem.eql(u8, event.value, "bad")) return sluice.fail(.permanent, "a bad visit", .{});
}

fn fire(timer: *const sluice.Timer, out: *sluice.Outputs) !void {
    const count = try countOf(timer.key);
    if (std.mem.eql(u8, timer.tag, "idle")) try visits.delete(timer.key);
    try out.send(timer.key, try text("{s} {d} at {d}", .{ timer.tag, count, timer.time }));
}

/// Version 0 kept them under `visit`, and those that had left as 0.
fn migrate(_: u32, entry: sluice.Entry) !void {
    const count = std.fmt.parseInt(u64, entry.value, 10) catch
        return sluice.fail(.permanent, "what is kept is no count", .{});
    if (count == 0) return;
    const key = try std.mem.concat(sluice.allocator(), u8, &.{ "visits", entry.key["visit".len..] });
    try sluice.migrated(.{ .key = key, .value = entry.value, .expires = entry.expires });
}

comptime {
    sluice.consumer(.{ .process = process, .fire = fire, .wants = wants, .state_version = 1, .migrate = migrate });
}
