//! Keeps the flights that left late, and says by how much, keyed by the airport they left from.
const std = @import("std");
const sluice = @import("sluice");

pub const panic = sluice.panic;

const Late = struct { route: [2][]const u8, minutes: i64 };
const Config = struct { @"threshold-minutes": i64 = 30 };

var threshold: i64 = 30;

fn init(config: []const u8) !void {
    const parsed = std.json.parseFromSliceLeaky(Config, sluice.allocator(), config, .{}) catch |err|
        return sluice.fail(.permanent, "config: {s}", .{@errorName(err)});
    threshold = parsed.@"threshold-minutes";
}

fn process(event: *const sluice.Event, out: *sluice.Outputs) !void {
    const found = sluice.json.fields(event.value, &.{ "delay", "origin", "destination" }) orelse return error.NotJson;
    const delay = sluice.json.integer(found[0]) orelse return error.NoDelay;
    const origin = sluice.json.string(found[1]) orelse return error.NoOrigin;
    const destination = sluice.json.string(found[2]) orelse return error.NoDestination;
    if (delay < threshold) return;
    const late: Late = .{ .route = .{ origin, destination }, .minutes = delay };
    try out.send(origin, try std.json.Stringify.valueAlloc(sluice.allocator(), late, .{}));
}

comptime {
    sluice.consumer(.{ .process = process, .init = init });
}
