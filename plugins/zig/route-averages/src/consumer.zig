//! The average delay of each route so far, in whole minutes towards zero.
const std = @import("std");
const sluice = @import("sluice");

pub const panic = sluice.panic;

// Of whatever kind: a number in quotes is none.
const Flight = struct { delay: std.json.Value, origin: []const u8, destination: []const u8 };
const Sum = struct { count: i64 = 0, sum: i64 = 0 };
const Average = struct { route: []const u8, count: i64, mean: i64 };

const sums: sluice.State = .{ .name = "average" };

fn read(value: []const u8) !struct { i64, []const u8 } {
    if (!std.unicode.utf8ValidateSlice(value)) return error.NotUtf8;
    const flight = try std.json.parseFromSliceLeaky(Flight, sluice.allocator(), value, .{ .ignore_unknown_fields = true });
    const delay = if (flight.delay == .integer) flight.delay.integer else return error.NoDelay;
    return .{ delay, try std.mem.concat(sluice.allocator(), u8, &.{ flight.origin, "-", flight.destination }) };
}

fn wants(event: *const sluice.Event) !void {
    _, const route = read(event.value) catch return;
    try sums.want(route);
}

fn process(event: *const sluice.Event, out: *sluice.Outputs) !void {
    const delay, const route = try read(event.value);
    const kept = try sums.get(route) orelse "{}";
    const before = try std.json.parseFromSliceLeaky(Sum, sluice.allocator(), kept, .{});
    const sum: Sum = .{ .count = before.count + 1, .sum = before.sum + delay };
    try sums.set(route, try std.json.Stringify.valueAlloc(sluice.allocator(), sum, .{}));
    const average: Average = .{ .route = route, .count = sum.count, .mean = @divTrunc(sum.sum, sum.count) };
    try out.send(route, try std.json.Stringify.valueAlloc(sluice.allocator(), average, .{}));
}

comptime {
    sluice.consumer(.{ .process = process, .wants = wants });
}
