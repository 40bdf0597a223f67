//! Fails in every way a consumer can. Otherwise it writes an event's text with ASCII letters in capitals.
const std = @import("std");
const sluice = @import("sluice");

pub const panic = sluice.panic;

fn process(event: *const sluice.Event, out: *sluice.Outputs) !void {
    const text = event.value;
    if (!std.unicode.utf8ValidateSlice(text)) return sluice.fail(.permanent, "not UTF-8", .{});
    const space = std.mem.indexOfScalar(u8, text, ' ');
    const word = text[0 .. space orelse text.len];
    if (std.mem.eql(u8, word, "bad")) return sluice.fail(.permanent, "event {d} is bad", .{event.offset});
    if (std.mem.eql(u8, word, "down")) return sluice.fail(.transient, "what it needs is down", .{});
    if (std.mem.eql(u8, word, "panic")) {
        const here = @src();
        std.debug.panic("event {d} makes it panic, {s}:{d}", .{ event.offset, here.file, here.line });
    }
    if (std.mem.eql(u8, word, "say")) sluice.log(.info, "{s}", .{text[@min(word.len + 1, text.len)..]});
    const capitals = sluice.scratch(text.len);
    for (text, capitals) |c, *capital| capital.* = std.ascii.toUpper(c);
    try out.send(event.key, capitals);
}

comptime {
    sluice.consumer(.{ .process = process });
}
