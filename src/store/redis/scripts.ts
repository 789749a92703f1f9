import { createHash } from 'node:crypto';

/*
 * What Redis does in one piece. Keys, all behind the prefix:
 *
 *   meta          hash: id (of the store), format, commits (their count, which is the last revision), epoch (the primary's
 *                 replication id as the last controller saw it)
 *   epochs        list of "<replication id> <commits>", see history.ts
 *   d:<key>       a document: "<rev>\n<entries>\n<value>"; entries and value are JSON, which has no line breaks. An entry is
 *                 [index, sort], or [index] when it stands at the document's revision
 *   i:<index>     a sorted set, all scores 0, so that its order is that of the members' bytes: <sort> NUL <key>, with each
 *                 NUL in <sort> as NUL 0xFF. UTF-8 has no 0xFF and keys are not empty, so the end of <sort> is plain
 *   c:<id>        the revision of a commit, for a while: who asks again with the same id gets the same answer
 *   barrier       written for its place in the replication stream only
 *   copy          "<id> <revision>" while a copy of the store is made (backup.ts): as it was at that revision
 *   before        a hash: what commits after that revision replaced or removed, by its key
 *   trial         for a moment: whether this user may do what a commit does
 *
 * "#!lua" without flags lets Redis refuse a script before its first write when memory is short, the disk fails or replicas
 * are missing. Everything else that could fail is read before the first write, for Redis takes no write back.
 */

/** A script and how it is called. */
export interface Script {
  readonly text: string;
  readonly sha: string;
}

function script(text: string): Script {
  return { text, sha: createHash('sha1').update(text).digest('hex') };
}

/** The format of what these scripts write. */
export const FORMAT = 1;

const PARTS = `
local function member(sort, key)
  return (string.gsub(sort, '%z', '\\0\\255')) .. '\\0' .. key
end
-- Where an entry of a document of that revision stands: those without a position, at the revision.
local function place(entry, rev)
  return entry[2] or string.rep('0', 16 - #rev) .. rev
end
-- A document without its value: its revision and its entries.
local function head(name)
  local text = redis.call('GETRANGE', name, 0, 1023)
  if text == '' then return false end
  local first = string.find(text, '\\n', 1, true)
  local second = string.find(text, '\\n', first + 1, true)
  if not second then
    text = redis.call('GET', name)
    second = string.find(text, '\\n', first + 1, true)
  end
  return { string.sub(text, 1, first - 1), string.sub(text, first + 1, second - 1) }
end
`;

/**
 * Carries out one commit.
 * Arguments: prefix, id of the commit, for how long that is kept (ms), epoch, then of each write kind (put, put-at-revision
 * when an entry stands there, delete, check), key, expectation, and of a put entries and value. Answers: ok <rev> · conflict (<key> <rev or nothing>)… · epoch (another primary's time).
 */
export const commitScript = script(`#!lua
${PARTS}
local prefix, id = ARGV[1], ARGV[2]
local before = redis.call('GET', prefix .. 'c:' .. id)
if before then return { 'ok', before } end
local meta = prefix .. 'meta'
if redis.call('HGET', meta, 'epoch') ~= ARGV[4] then return { 'epoch' } end
-- While a copy is made: what was there at its revision is kept for it.
local copied = tonumber(string.match(redis.call('GET', prefix .. 'copy') or '', ' (%d+)$') or '-1')
local heads, writes, seen, answer = {}, {}, {}, { 'conflict' }
local at = 5
while at <= #ARGV do
  local kind, key, expect = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if heads[key] == nil then heads[key] = head(prefix .. 'd:' .. key) end
  local found = heads[key]
  local met = expect == 'any'
  if expect == 'absent' then met = not found elseif not met then met = found and found[1] == expect end
  if not met and not seen[key] then
    seen[key] = true
    answer[#answer + 1] = key
    answer[#answer + 1] = found and found[1] or ''
  end
  if kind == 'put' or kind == 'put-at-revision' then
    local write = { key, found, ARGV[at + 3], ARGV[at + 4], {}, {} }
    if not found or found[2] ~= write[3] or kind == 'put-at-revision' then
      for _, entry in ipairs(cjson.decode(write[3])) do write[5][#write[5] + 1] = entry end
      if found then write[6] = cjson.decode(found[2]) end
    end
    writes[#writes + 1] = write
    at = at + 5
  else
    if kind == 'delete' and found then
      writes[#writes + 1] = { key, found, false, false, {}, cjson.decode(found[2]) }
    end
    at = at + 3
  end
end
if #answer > 1 then return answer end

local rev = string.format('%.0f', redis.call('HINCRBY', meta, 'commits', 1))
for _, write in ipairs(writes) do
  local key, found, entries, value = write[1], write[2], write[3], write[4]
  if found and tonumber(found[1]) <= copied then
    redis.call('HSET', prefix .. 'before', key, redis.call('GET', prefix .. 'd:' .. key))
  end
  local kept = {}
  for _, entry in ipairs(write[5]) do kept[#entry[1] .. ':' .. entry[1] .. place(entry, rev)] = 1 end
  for _, entry in ipairs(write[6]) do
    local sort = place(entry, found[1])
    local name = #entry[1] .. ':' .. entry[1] .. sort
    if kept[name] then
      kept[name] = 2
    else
      redis.call('ZREM', prefix .. 'i:' .. entry[1], member(sort, key))
    end
  end
  for _, entry in ipairs(write[5]) do
    local sort = place(entry, rev)
    if kept[#entry[1] .. ':' .. entry[1] .. sort] == 1 then
      redis.call('ZADD', prefix .. 'i:' .. entry[1], 0, member(sort, key))
    end
  end
  if entries then
    redis.call('SET', prefix .. 'd:' .. key, rev .. '\\n' .. entries .. '\\n' .. value)
  else
    redis.call('DEL', prefix .. 'd:' .. key)
  end
end
redis.call('SET', prefix .. 'c:' .. id, rev, 'PX', ARGV[3])
return { 'ok', rev }
`);

/**
 * Writes for its place in the stream: when a replica has it, it has all that was there before.
 * Arguments: prefix, epoch. Answers: ok <commits> · epoch.
 */
export const barrierScript = script(`#!lua
local prefix = ARGV[1]
local meta = prefix .. 'meta'
if redis.call('HGET', meta, 'epoch') ~= ARGV[2] then return { 'epoch' } end
redis.call('SET', prefix .. 'barrier', '1')
return { 'ok', redis.call('HGET', meta, 'commits') }
`);

/**
 * Reads a part of an index with its documents.
 * Arguments: prefix, index, from, to (as ZRANGEBYLEX has them), limit. Answers: the sort of the entry at the limit (nothing
 * when there are no more), then key and document of each entry up to it.
 */
export const listScript = script(`#!lua flags=no-writes
local prefix, limit = ARGV[1], tonumber(ARGV[5])
local members = redis.call('ZRANGEBYLEX', prefix .. 'i:' .. ARGV[2], ARGV[3], ARGV[4], 'LIMIT', 0, limit + 1)
local answer = { '' }
for position, text in ipairs(members) do
  if position > limit then break end
  local stop = string.find(text, '%z[^\\255]')
  local key = string.sub(text, stop + 1)
  if position == limit and #members > limit then
    answer[1] = 'x' .. string.gsub(string.sub(text, 1, stop - 1), '%z\\255', '\\0')
  end
  answer[#answer + 1] = key
  answer[#answer + 1] = redis.call('GET', prefix .. 'd:' .. key) or ''
end
return answer
`);

/** Reads what a server holds of the store. Arguments: prefix. Answers: id, format, commits, epoch, loading, then the epochs. */
export const historyScript = script(`#!lua flags=no-writes
local prefix = ARGV[1]
local meta = prefix .. 'meta'
local answer = {}
for position, field in ipairs({ 'id', 'format', 'commits', 'epoch', 'loading' }) do
  answer[position] = redis.call('HGET', meta, field) or ''
end
for _, epoch in ipairs(redis.call('LRANGE', prefix .. 'epochs', 0, -1)) do answer[#answer + 1] = epoch end
return answer
`);

/**
 * Takes a server into use, and makes the store on an empty one. Tries each command that a commit uses on keys of its own
 * first: a user without the right to one of them must not find out in the middle of a commit.
 * Arguments: prefix, id and epoch as they were read (nothing: empty), id for a new store, format, replication id, epochs kept.
 * Answers: ok · again (somebody else was faster).
 */
export const adoptScript = script(`#!lua
local prefix = ARGV[1]
local meta, epochs, trial = prefix .. 'meta', prefix .. 'epochs', prefix .. 'trial'
if (redis.call('HGET', meta, 'id') or '') ~= ARGV[2] then return { 'again' } end
if (redis.call('HGET', meta, 'epoch') or '') ~= ARGV[3] then return { 'again' } end
redis.call('DEL', trial)
redis.call('SET', trial, '1', 'PX', '1000')
redis.call('GETRANGE', trial, 0, 1)
redis.call('GET', trial)
redis.call('DEL', trial)
redis.call('ZADD', trial, 0, 'x')
redis.call('ZREM', trial, 'x')
redis.call('HINCRBY', trial, 'x', 1)
redis.call('DEL', trial)
redis.call('HSET', trial, 'x', 'y')
redis.call('DEL', trial)
redis.call('RPUSH', trial, 'x')
redis.call('LTRIM', trial, 1, 0)
if ARGV[2] == '' then redis.call('HSET', meta, 'id', ARGV[4], 'format', ARGV[5], 'commits', '0') end
if ARGV[3] ~= ARGV[6] then
  redis.call('RPUSH', epochs, ARGV[6] .. ' ' .. redis.call('HGET', meta, 'commits'))
  redis.call('LTRIM', epochs, -tonumber(ARGV[7]), -1)
  redis.call('HSET', meta, 'epoch', ARGV[6])
end
-- Of a copy whose maker died.
if not redis.call('GET', prefix .. 'copy') then redis.call('DEL', prefix .. 'before') end
return { 'ok' }
`);

/**
 * Begins a copy of the store as it is now. Arguments: prefix, id of the copy, for how long it goes on unless it is held on to
 * (ms). Answers: ok <commits> · busy (another one is being made).
 */
export const copyBeginScript = script(`#!lua
local prefix = ARGV[1]
if redis.call('GET', prefix .. 'copy') then return { 'busy' } end
redis.call('DEL', prefix .. 'before')
local commits = redis.call('HGET', prefix .. 'meta', 'commits')
redis.call('SET', prefix .. 'copy', ARGV[2] .. ' ' .. commits, 'PX', ARGV[3])
return { 'ok', commits }
`);

/** Holds on to a copy that is being made. Arguments as above. Answers: ok · lost (it was given up since: start anew). */
export const copyHoldScript = script(`#!lua
local name = ARGV[1] .. 'copy'
local copy = redis.call('GET', name) or ''
if string.sub(copy, 1, #ARGV[2] + 1) ~= ARGV[2] .. ' ' then return { 'lost' } end
redis.call('SET', name, copy, 'PX', ARGV[3])
return { 'ok' }
`);

/** Ends a copy. Arguments: prefix, id of the copy. Answers: ok · lost (something of it may be missing). */
export const copyEndScript = script(`#!lua
local prefix = ARGV[1]
local copy = redis.call('GET', prefix .. 'copy') or ''
if string.sub(copy, 1, #ARGV[2] + 1) ~= ARGV[2] .. ' ' then return { 'lost' } end
redis.call('DEL', prefix .. 'copy')
redis.call('DEL', prefix .. 'before')
return { 'ok' }
`);

/**
 * Puts documents of a copy where there is no store. Arguments: prefix, then of each document key, revision, entries and value.
 * Answers: ok · taken (a store is there).
 */
export const loadScript = script(`#!lua
${PARTS}
local prefix = ARGV[1]
if redis.call('HGET', prefix .. 'meta', 'id') then return { 'taken' } end
redis.call('HSET', prefix .. 'meta', 'loading', '1')
for at = 2, #ARGV, 4 do
  local key, entries = ARGV[at], ARGV[at + 2]
  redis.call('SET', prefix .. 'd:' .. key, ARGV[at + 1] .. '\\n' .. entries .. '\\n' .. ARGV[at + 3])
  for _, entry in ipairs(cjson.decode(entries)) do
    redis.call('ZADD', prefix .. 'i:' .. entry[1], 0, member(entry[2], key))
  end
end
return { 'ok' }
`);

/** Makes a store of what was put there. Arguments: prefix, id, format, commits. Answers: ok · taken. */
export const loadEndScript = script(`#!lua
local meta = ARGV[1] .. 'meta'
if redis.call('HGET', meta, 'id') then return { 'taken' } end
redis.call('DEL', meta)
redis.call('HSET', meta, 'id', ARGV[2], 'format', ARGV[3], 'commits', ARGV[4])
return { 'ok' }
`);

export const scripts: readonly Script[] = [
  ...[commitScript, barrierScript, listScript, historyScript, adoptScript],
  ...[copyBeginScript, copyHoldScript, copyEndScript, loadScript, loadEndScript],
];
