-- Compare-and-set of whole records. Each record is a run of `rows_per_record` keys, one packed row per key; the last key is that of
-- the shard's map entry. After the rows, ARGV has `rows_per_record` and the map entry that the writer expects.
-- A record is written if its version is greater than the stored one; the first key whose versions differ decides.
-- Returns what the shard has recorded instead if it is another entry. Otherwise, for each record, 1 if it was rejected as stale (the stored version is greater), 2 if it is newer than stored rows of a
-- newer format, which it must not replace, else 0.
-- A version is the first 24 bytes of a row: three big-endian 64-bit integers, each below 2^53. The format is in the third, above
-- 48 bits.
local function read_version(key)
  local version = redis.pcall('GETRANGE', key, 0, 23)
  return type(version) == 'string' and #version == 24 and version -- otherwise missing, cut, or a key of another type
end

local function compare_versions(key, row)
  local stored = read_version(key)
  if not stored then return 1 end
  local stored_time, stored_revision, stored_digest = struct.unpack('>I8I8I8', stored)
  local new_time, new_revision, new_digest = struct.unpack('>I8I8I8', row)
  if new_time ~= stored_time then return new_time - stored_time end
  if new_revision ~= stored_revision then return new_revision - stored_revision end
  return new_digest - stored_digest
end

local function has_newer_format(key, row)
  local stored = read_version(key)
  return stored and math.floor(struct.unpack('>I8', stored, 17) / 2^48) > math.floor(struct.unpack('>I8', row, 17) / 2^48)
end

local function compare_and_set(first, last)
  for index = first, last do
    local difference = compare_versions(KEYS[index], ARGV[index])
    if difference < 0 then return 1 end
    if difference > 0 then
      for replaced = first, last do
        if has_newer_format(KEYS[replaced], ARGV[replaced]) then return 2 end
      end
      for written = first, last do redis.call('SET', KEYS[written], ARGV[written]) end
      return 0
    end
  end
  return 0
end

local recorded = redis.pcall('GET', KEYS[#KEYS])
if type(recorded) == 'string' and recorded ~= ARGV[#ARGV] then return recorded end
local rows_per_record, stale = tonumber(ARGV[#ARGV - 1]), {}
for first = 1, #KEYS - 1, rows_per_record do
  table.insert(stale, compare_and_set(first, first + rows_per_record - 1))
end
return stale
