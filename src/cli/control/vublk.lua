-- SPDX-License-Identifier: LGPL-2.1-or-later
-- Wireshark's dissector for a trace of vublk: `vublk ctl SOCKET trace --format pcapng -o FILE`.
--
--   wireshark -X lua_script:vublk.lua FILE
--
-- A packet is a request of a disk, with link type DLT_USER0. Its time is the completion time.
-- Little-endian, 40 bytes: version (1), status, queue (16 bits), type (32), and 64 bits each of
-- sector, length, wait and latency in ns, where all ones mean that the time is unknown.

local vublk = Proto("vublk", "vublk: request of a virtio-blk disk")

local types = {
	[0] = "read", [1] = "write", [4] = "flush", [8] = "get_id", [11] = "discard",
	[13] = "write_zeroes", [14] = "secure_erase",
}
local statuses = { [0] = "ok", [1] = "ioerr", [2] = "unsupp" }

local f = {
	version = ProtoField.uint8("vublk.version", "Version of the format"),
	status = ProtoField.uint8("vublk.status", "Status", base.DEC, statuses),
	queue = ProtoField.uint16("vublk.queue", "Queue"),
	type = ProtoField.uint32("vublk.type", "Type", base.DEC, types),
	sector = ProtoField.uint64("vublk.sector", "Sector (512 bytes)"),
	length = ProtoField.uint64("vublk.length", "Length in bytes"),
	wait = ProtoField.uint64("vublk.wait", "Wait before the submission, in ns"),
	latency = ProtoField.uint64("vublk.latency", "Latency, in ns"),
}
vublk.fields = f

local short = ProtoExpert.new("vublk.short", "The packet is too short, or has another version",
	expert.group.MALFORMED, expert.severity.ERROR)
vublk.experts = { short }

local UNKNOWN = UInt64(0xffffffff, 0xffffffff)

-- Adds the time in `range` as `field` and returns it. If the time is unknown, adds nothing and
-- returns nil.
local function add_time(tree, field, range)
	if range:le_uint64() == UNKNOWN then
		return nil
	end
	tree:add_le(field, range)
	return range:le_uint64()
end

function vublk.dissector(buffer, pinfo, root)
	local tree = root:add(vublk, buffer())

	pinfo.cols.protocol = "vublk"
	if buffer:len() < 40 or buffer(0, 1):uint() ~= 1 then
		tree:add_proto_expert_info(short)
		return 0
	end
	tree:add_le(f.version, buffer(0, 1))
	tree:add_le(f.status, buffer(1, 1))
	tree:add_le(f.queue, buffer(2, 2))
	tree:add_le(f.type, buffer(4, 4))
	tree:add_le(f.sector, buffer(8, 8))
	tree:add_le(f.length, buffer(16, 8))
	add_time(tree, f.wait, buffer(24, 8))
	local latency = add_time(tree, f.latency, buffer(32, 8))
	local type = buffer(4, 4):le_uint()
	local status = buffer(1, 1):uint()
	pinfo.cols.info = string.format("queue %d: %s, sector %s, %s bytes, %s%s", buffer(2, 2):le_uint(),
		types[type] or ("type " .. type), tostring(buffer(8, 8):le_uint64()),
		tostring(buffer(16, 8):le_uint64()), statuses[status] or ("status " .. status),
		latency and string.format(", %.1f us", latency:tonumber() / 1000) or "")
	return 40
end

-- Wireshark calls DLT_USER0 "User 0".
DissectorTable.get("wtap_encap"):add(wtap.USER0, vublk)
