//! Lets each key through once within some time.
const std = @import("std");
const sluice = @import("sluice");

pub const panic = sluice.panic;

const Config = struct { @"for-seconds": i64 = 3600 };

const seen: sluice.State = .{ .name = "seen" };
var seconds: i64 = 3600;

fn init(config: []const u8) !void {
    const parsed = std.json.parseFromSliceLeaky(Config, sluice.allocator(), config, .{}) catch |err|
        return sluice.fail(.permanent, "config: {s}", .{@errorName(err)});
    seconds = parsed.@"for-seconds";
}

fn wants(event: *const sluice.Event) !void {
    if (event.key) |key| try seen.want(key);
}

fn process(event: *const sluice.Event, out: *sluice.Outputs) !void {
    const key = event.key orelse return sluice.fail(.permanent, "the event has no key", .{});
    if (try seen.get(key) != null) return;
    try seen.setFor(key, "1", seconds * 1000);
    const headers = try sluice.allocator().alloc(sluice.Header, event.header_count);
    for (headers, 0..) |*header, index| header.* = event.header(@intCast(index));
    try out.put(.{ .key = key, .value = event.value, .headers = headers });
}

comptime {
    sluice.consumer(.{ .process = process, .init = init, .wants = wants });
}
