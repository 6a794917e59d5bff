-- Put records, each of so many packed rows (the last of ARGV) at as many of KEYS in turn, where a record is greater than what
-- is there. For each record: 1 if something greater is there already, else 0. The first key at which the orders differ decides.
-- An order is three big-endian 64-bit integers at the start of a row, each below 2^53.
local function compare(key, row)
  local old = redis.call('GETRANGE', key, 0, 23)
  if old == '' then return 1 end
  local old_time, old_revision, old_digest = struct.unpack('>I8I8I8', old)
  local new_time, new_revision, new_digest = struct.unpack('>I8I8I8', row)
  if new_time ~= old_time then return new_time - old_time end
  if new_revision ~= old_revision then return new_revision - old_revision end
  return new_digest - old_digest
end

local function put(first, last)
  for place = first, last do
    local difference = compare(KEYS[place], ARGV[place])
    if difference < 0 then return 1 end
    if difference > 0 then
      for written = first, last do redis.call('SET', KEYS[written], ARGV[written]) end
      return 0
    end
  end
  return 0
end

local size, overtaken = tonumber(ARGV[#ARGV]), {}
for first = 1, #KEYS, size do
  table.insert(overtaken, put(first, first + size - 1))
end
return overtaken
