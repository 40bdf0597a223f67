//! Keeps the flights that left late, and says by how much, keyed by the airport they left from.
const std = @import("std");
const sluice = @import("sluice");

pub const panic = sluice.panic;

// Of whatever kind: a number in quotes is none.
const Flight = struct { delay: std.json.Value, origin: []const u8, destination: []const u8 };
const Late = struct { route: [2][]const u8, minutes: i64 };
const Config = struct { @"threshold-minutes": i64 = 30 };

var threshold: i64 = 30;

fn init(config: []const u8) !void {
    const parsed = std.json.parseFromSliceLeaky(Config, sluice.allocator(), config, .{}) catch |err|
        return sluice.fail(.permanent, "config: {s}", .{@errorName(err)});
    threshold = parsed.@"threshold-minutes";
}

fn process(event: *const sluice.Event, out: *sluice.Outputs) !void {
    if (!std.unicode.utf8ValidateSlice(event.value)) return sluice.fail(.permanent, "not UTF-8", .{});
    const flight = try std.json.parseFromSliceLeaky(Flight, sluice.allocator(), event.value, .{ .ignore_unknown_fields = true });
    const delay = if (flight.delay == .integer) flight.delay.integer else return error.NoDelay;
    if (delay < threshold) return;
    const late: Late = .{ .route = .{ flight.origin, flight.destination }, .minutes = delay };
    try out.send(flight.origin, try std.json.Stringify.valueAlloc(sluice.allocator(), late, .{}));
}

comptime {
    sluice.consumer(.{ .process = process, .init = init });
}
