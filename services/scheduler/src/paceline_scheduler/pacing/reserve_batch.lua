-- Purpose: propose one slot each for up to a batch of mailboxes of one workspace, O(log n) in
--   mailboxes and independent of queued jobs, of waiting and of free mailboxes.
--   First takes in what was told (`incoming`), then promotes jobs that fell due, then frees the
--   mailboxes whose time has come (each takes its own follow-ups first), then lets campaigns
--   choose among the free ones, least recently served first. `shard.py` is the same machine.
--   Ids in members and fields are 8 bytes, big-endian: <id>; equal scores fall by number.
--   A free mailbox stands once per place in `free`: member <lane, 2 bytes><mailbox>, score
--   lane * 2^41 + key; key by mode: next in line: when served last (a count); round robin: its
--   position; random: 0; weighted: its virtual time; priority: rank * 2^32 + when served last.
--   Every mailbox is in `ready`: when to look at it, for a free one when its stretch ends.
--   Job lists are chunks in `queue`: <list>/<n> = first id, first due (s), then per job the
--   differences to them, 4 + 4 bytes. Field c<campaign> = {turn, {[host] = {head, tail, offset}},
--   {[tier] = pool served last}, {[pool] = position served last}}; its lists are c<campaign><host>.
--   Field m<mailbox> = {rotation, class, {{campaign, head, tail, offset}, ...}, parked}, its lists
--   are m<mailbox><campaign>; field p<mailbox> = {...} has those parked: of campaigns that, in that
--   rotation, do not let a mailbox of that class send.
-- KEYS: 1 meta (hash: epoch, served, rotation = how often it was set, v<pool> = virtual time)
--   2 incoming (list of messages)
--   3 ready (zset mailbox -> ms)  4 free (zset)  5 held (set: free mailboxes with follow-ups that
--   no campaign in rotation lets them send)  6 mailbox (hash -> record)
--   7 due (zset <mailbox or 0><campaign><host, 1 byte><job> -> ms)  8 queue (hash)
--   9 turn (zset of campaigns in rotation with work -> served count then)  10 route (hash)
-- ARGV: 1 most proposals  2 draws and picks in [0, 1), msgpack {{...}, {...}}
--   3 now in ms, or '' for TIME
-- Returns: nil when the state is lost or a counter is full, else msgpack {epoch, now ms,
--   wake ms or -1, {mailbox, job, campaign, pool or 0, slot ms, not-after ms, sticky 0/1, host,
--   due ms, ...}, {stale mailbox, ...}}. Stale mailboxes need their next stretch compiled.
local META, INCOMING, READY, FREE, HELD = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local MAILBOX, DUE, QUEUE, TURN, ROUTE = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
-- What one call takes in is bounded, by messages and by bytes: about 10 ms.
local MESSAGES, BYTES, AT_ONCE, PROMOTE, STALE_MS, PAGE = 1000, 400000, 50, 1000, 1000, 16
local CHUNK, MERGE, HEADER, SPAN = 500, 64, 12, 2 ^ 31
local LANE, RANK, STRIDE = 2 ^ 41, 2 ^ 32, 2 ^ 20
local MAX_SERVED, MAX_VIRTUAL = 2 ^ 32 - 1, 2 ^ 40
local NEXT_IN_LINE, ROUND_ROBIN, RANDOM, WEIGHTED, PRIORITY = 0, 1, 2, 3, 4
local OFF, STRICT = 0, 2
-- A record: these, then five values per place: lane, pool, mode, key, virtual time.
local NEXT, CADENCE, JITTER_MIN, JITTER_MAX, GRACE, LEAD = 1, 2, 3, 4, 5, 6
local FROM, UNTIL, LEFT, KLASS, SERVED, IS_FREE, PLACES = 7, 8, 9, 10, 11, 12, 13
local pack, unpack_ = cmsgpack.pack, cmsgpack.unpack
local spack, sunpack = struct.pack, struct.unpack
local call, floor = redis.call, math.floor

local told = call('HMGET', META, 'epoch', 'served', 'rotation')
local epoch, served = told[1] and tonumber(told[1]), tonumber(told[2] or 0) or 0
local rotation = tonumber(told[3] or 0)
if not epoch or served >= MAX_SERVED then
  return nil
end
local now
if ARGV[3] == '' then
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
else
  now = tonumber(ARGV[3])
end
local most = tonumber(ARGV[1])
local given = unpack_(ARGV[2])
local draws, picks = given[1], given[2]

-- Something is missing: all of it is written anew.
local function lost(what)
  call('HDEL', META, 'epoch')
  error({ err = 'LOST ' .. what })
end

local function name_of(id)
  return spack('>I8', id)
end

-- Many arguments in one command, as many as Lua's stack takes.
local function many(command, key, values)
  for i = 1, #values, 4000 do
    call(command, key, unpack(values, i, math.min(i + 3999, #values)))
  end
end

-- Job lists, read once and written back at the end.
local chunks, campaigns, owns = {}, {}, {}

local function chunk_of(blob)
  local id, due = sunpack('<i8I4', blob)
  return { blob = blob, n = (#blob - HEADER) / 8, id = id, due = due }
end

local function chunk(l, n)
  local field = l.field .. '/' .. n
  local found = chunks[field]
  if not found then
    found = chunk_of(call('HGET', QUEUE, field) or lost('chunk'))
    chunks[field] = found
  end
  return found
end

local function put_chunk(l, n, made)
  made.dirty = true
  chunks[l.field .. '/' .. n] = made
end

local function job_at(c, offset)
  local id, due = sunpack('<i4i4', c.blob, HEADER + 1 + 8 * offset)
  return c.id + id, c.due + due
end

local function append(l, blob)
  local added = chunk_of(blob)
  if l.head <= l.tail and added.n < MERGE then
    local last, near = chunk(l, l.tail), true
    if last.n + added.n <= CHUNK then
      local parts = { last.blob }
      for i = 0, added.n - 1 do
        local id, due = job_at(added, i)
        id, due = id - last.id, due - last.due
        near = near and id < SPAN and id >= -SPAN and due < SPAN and due >= -SPAN
        parts[i + 2] = near and spack('<i4i4', id, due)
      end
      if near then
        last.blob, last.n, last.dirty = table.concat(parts), last.n + added.n, true
        return
      end
    end
  end
  l.tail = l.tail + 1
  put_chunk(l, l.tail, added)
end

local function prepend(l, blob)
  if l.offset > 0 then
    local first = chunk(l, l.head)
    first.blob = string.sub(first.blob, 1, HEADER)
      .. string.sub(first.blob, HEADER + 1 + 8 * l.offset)
    first.n, first.dirty, l.offset = first.n - l.offset, true, 0
  end
  l.head = l.head - 1
  put_chunk(l, l.head, chunk_of(blob))
end

local function peek(l)
  return job_at(chunk(l, l.head), l.offset)
end

-- Takes the first job; tells whether there are more.
local function drop(l)
  l.offset = l.offset + 1
  if l.offset >= chunk(l, l.head).n then
    put_chunk(l, l.head, { blob = '', n = 0 })
    l.head, l.offset = l.head + 1, 0
  end
  return l.head <= l.tail
end

local function campaign_of(name)
  local found = campaigns[name]
  if not found then
    local raw = call('HGET', QUEUE, 'c' .. name)
    local s = raw and unpack_(raw) or { 0, {}, {}, {} }
    found = { name = name, id = sunpack('>I8', name), turn = s[1], pools = s[3], cursors = s[4] }
    found.lists = {}
    for host, p in pairs(s[2]) do
      found.lists[host] = {
        head = p[1], tail = p[2], offset = p[3], field = 'c' .. name .. string.char(host),
      }
    end
    campaigns[name] = found
  end
  return found
end

local function own_list(name, p)
  local campaign = name_of(p[1])
  return {
    id = p[1], campaign = campaign, head = p[2], tail = p[3], offset = p[4],
    field = 'm' .. name .. campaign,
  }
end

local function own_of(name, raw)
  local found = owns[name]
  if not found then
    local o = raw and unpack_(raw) or { rotation, 0, {}, 0 }
    found = { name = name, rotation = o[1], klass = o[2], active = {}, parked = o[4] }
    for i, p in ipairs(o[3]) do
      found.active[i] = own_list(name, p)
    end
    owns[name] = found
  end
  return found
end

local function parked_of(own)
  if not own.resting then
    own.resting = {}
    if own.parked > 0 then
      local raw = call('HGET', QUEUE, 'p' .. own.name) or lost('follow-ups')
      for i, p in ipairs(unpack_(raw)) do
        own.resting[i] = own_list(own.name, p)
      end
    end
  end
  return own.resting
end

local function own_list_of(own, campaign_name)
  for _, l in ipairs(own.active) do
    if l.campaign == campaign_name then
      return l
    end
  end
  if own.parked > 0 then
    for _, l in ipairs(parked_of(own)) do
      if l.campaign == campaign_name then
        return l
      end
    end
  end
end

-- Routes, read once: {match, {class, ...}, {{after ms or -1, {pool, ...}}, ...}},
-- a pool = {pool, mode, {lane, host, ...}, {{mailbox, ...}, ...}}.
local routes = {}
local function route_of(name)
  local found = routes[name]
  if found == nil then
    local raw = call('HGET', ROUTE, name)
    found = false
    if raw then
      local r = unpack_(raw)
      found = { match = r[1], classes = {}, tiers = r[3] }
      for _, klass in ipairs(r[2]) do
        found.classes[klass] = true
      end
    end
    routes[name] = found
  end
  return found
end

-- Mailboxes, read once and written back at the end.
local boxes, lanes, ready, held = {}, {}, {}, {}
local free_entries = 0

local function box_of(name, raw)
  local found = boxes[name]
  if found == nil then
    raw = raw or call('HGET', MAILBOX, name)
    found = raw and { name = name, id = sunpack('>I8', name), r = unpack_(raw) } or false
    boxes[name] = found
  end
  return found
end

local function lane_of(lane)
  local found = lanes[lane]
  if not found then
    found = { base = lane * LANE, fresh = {}, first = 1, page = {}, at = 1 }
    lanes[lane] = found
  end
  return found
end

local function member(lane, name)
  return spack('>I2', lane) .. name
end

local function score_of(r, i)
  local mode, key = r[i + 2], 0
  if mode == NEXT_IN_LINE then
    key = r[SERVED]
  elseif mode == ROUND_ROBIN then
    key = r[i + 3]
  elseif mode == WEIGHTED then
    key = r[i + 4]
  elseif mode == PRIORITY then
    key = r[i + 3] * RANK + r[SERVED]
  end
  return key
end

local function unfree(box)
  local r = box.r
  if r[IS_FREE] == 0 then
    return
  end
  if not box.fresh or box.flushed then
    local members = {}
    for i = PLACES, #r, 5 do
      members[#members + 1] = member(r[i], box.name)
    end
    if #members > 0 then
      call('ZREM', FREE, unpack(members))
    end
    if r[IS_FREE] == 2 then
      call('SREM', HELD, box.name)
    end
  end
  free_entries = free_entries - (#r - PLACES + 1) / 5
  r[IS_FREE], box.fresh, box.dirty = 0, false, true
end

-- Work for a free mailbox: it is looked at in this call.
local function wake(name)
  local box = box_of(name)
  if box and box.r[IS_FREE] > 0 then
    call('ZADD', READY, 0, name)
  end
end

local function activate(c)
  if next(c.lists) and route_of(c.name) then
    call('ZADD', TURN, c.turn, c.name)
  end
end

-- Jobs for a mailbox alone (not 0), or for a campaign; in front of their list, or behind it.
local function take_in(mailbox, campaign, host, blob, change)
  if mailbox > 0 then
    local name, campaign_name = name_of(mailbox), name_of(campaign)
    local own = own_of(name, owns[name] or call('HGET', QUEUE, 'm' .. name))
    local l = own_list_of(own, campaign_name)
    if not l then
      l = own_list(name, { campaign, 1, 0, 0 })
      own.active[#own.active + 1] = l
    end
    own.dirty = true
    change(l, blob)
    wake(name)
  else
    local c = campaign_of(name_of(campaign))
    local l = c.lists[host]
    if not l then
      l = { head = 1, tail = 0, offset = 0, field = 'c' .. c.name .. string.char(host) }
      c.lists[host] = l
    end
    c.dirty = true
    change(l, blob)
    activate(c)
  end
end

local function take_message(raw)
  local m = unpack_(raw)
  if m[1] == 'q' then
    take_in(m[2], m[3], m[4], m[5], append)
  elseif m[1] == 'f' then
    take_in(m[2], m[3], m[4], m[5], prepend)
  elseif m[1] == 'm' then
    local name, r = name_of(m[2]), m[4]
    local old = box_of(name)
    if old then
      unfree(old)
      r[SERVED] = old.r[SERVED]
      for i = PLACES, #r, 5 do
        for j = PLACES, #old.r, 5 do
          if r[i + 1] == old.r[j + 1] then
            r[i + 4] = old.r[j + 4]
          end
        end
      end
    end
    boxes[name] = { name = name, id = m[2], r = r, dirty = true }
    call('ZADD', READY, m[3], name)
  elseif m[1] == 'x' then
    local name = name_of(m[2])
    local old = box_of(name)
    if old then
      unfree(old)
    end
    boxes[name] = false
    call('HDEL', MAILBOX, name)
    call('ZREM', READY, name)
  elseif m[1] == 't' then
    call('DEL', ROUTE, TURN)
    routes, rotation = {}, rotation + 1
    call('HSET', META, 'rotation', rotation)
    for i = 1, #m[2], 2 do
      local name = name_of(m[2][i])
      call('HSET', ROUTE, name, m[2][i + 1])
      activate(campaign_of(name))
    end
    local names = {}
    for _, name in ipairs(call('SMEMBERS', HELD)) do
      names[#names + 1] = 0
      names[#names + 1] = name
    end
    many('ZADD', READY, names)
    call('DEL', HELD)
  end
end

local taken, size = 0, 0
while taken < MESSAGES and size < BYTES do
  local messages = call('LPOP', INCOMING, AT_ONCE)
  if not messages then
    break
  end
  for _, raw in ipairs(messages) do
    taken, size = taken + 1, size + #raw
    take_message(raw)
  end
end

local due = call('ZRANGEBYSCORE', DUE, '-inf', now, 'WITHSCORES', 'LIMIT', 0, PROMOTE)
local promoted = {}
for i = 1, #due, 2 do
  local mailbox, campaign, host, job = sunpack('>I8I8BI8', due[i])
  promoted[#promoted + 1] = due[i]
  take_in(
    mailbox, campaign, host, spack('<i8I4i4i4', job, math.ceil(due[i + 1] / 1000), 0, 0), append
  )
end
many('ZREM', DUE, promoted)

local virtuals = {}
local function virtual(pool)
  local found = virtuals[pool]
  if not found then
    found = tonumber(call('HGET', META, 'v' .. name_of(pool)) or 0)
    virtuals[pool] = found
  end
  return found
end

local proposals, stale, made = {}, {}, 0

-- Tells whether the mailbox may send at once; otherwise notes when to look again.
local function settle(box)
  local r = box.r
  local soonest = now + r[LEAD]
  local slot = math.max(soonest, r[NEXT], r[FROM])
  if slot >= r[UNTIL] or r[LEFT] == 0 then
    unfree(box)
    stale[#stale + 1] = box.id
    -- Until it is compiled anew; asked for again if that gets lost.
    ready[box.name] = now + STALE_MS
    return false
  end
  if slot > soonest then
    unfree(box)
    ready[box.name] = slot - r[LEAD]
    return false
  end
  return true
end

local function set_free(box, has_own)
  local r = box.r
  -- A free mailbox is looked at again when its stretch ends.
  ready[box.name] = r[UNTIL] - r[LEAD]
  if has_own then
    held[#held + 1] = box
  end
  local state = has_own and 2 or 1
  if r[IS_FREE] > 0 then
    if r[IS_FREE] ~= state then
      r[IS_FREE], box.dirty = state, true
    end
    return
  end
  r[IS_FREE], box.fresh, box.dirty = state, true, true
  for i = PLACES, #r, 5 do
    if r[i + 2] == WEIGHTED then
      -- No credit for the time it was not free.
      r[i + 4] = math.max(r[i + 4], virtual(r[i + 1]))
    end
    local fresh = lane_of(r[i]).fresh
    fresh[#fresh + 1] = { score_of(r, i), box }
    free_entries = free_entries + 1
  end
end

local function propose(box, job, campaign, pool, sticky, host, due_s)
  local r = box.r
  local slot = now + r[LEAD]
  made = made + 1
  r[NEXT] = slot + r[CADENCE] + r[JITTER_MIN] + floor((r[JITTER_MAX] - r[JITTER_MIN]) * draws[made])
  if r[LEFT] > 0 then
    r[LEFT] = r[LEFT] - 1
  end
  served = served + 1
  r[SERVED], box.dirty = served, true
  ready[box.name] = r[NEXT] - r[LEAD]
  local n = #proposals
  proposals[n + 1], proposals[n + 2], proposals[n + 3] = box.id, job, campaign
  proposals[n + 4], proposals[n + 5] = pool, slot
  proposals[n + 6], proposals[n + 7] = math.min(slot + r[GRACE], r[UNTIL]), sticky
  proposals[n + 8], proposals[n + 9] = host, due_s * 1000
end

-- The first own follow-up of a campaign in rotation that lets this mailbox send it.
local function own_job(box, own)
  local active, klass = own.active, box.r[KLASS]
  if own.rotation ~= rotation or own.klass ~= klass then
    if own.parked > 0 then
      for _, l in ipairs(parked_of(own)) do
        active[#active + 1] = l
      end
      own.resting, own.parked, own.dirty = {}, 0, true
    end
    own.rotation, own.klass = rotation, klass
  end
  while active[1] do
    local l = table.remove(active, 1)
    local route = route_of(l.campaign)
    own.dirty = true
    if route and route.classes[klass] then
      local job, due_s = peek(l)
      -- To the end: its campaigns take turns.
      if drop(l) then
        active[#active + 1] = l
      end
      return job, due_s, l.id
    end
    local resting = parked_of(own)
    resting[#resting + 1] = l
    own.parked = own.parked + 1
  end
end

free_entries = call('ZCARD', FREE)
local names = call('ZRANGEBYSCORE', READY, '-inf', now, 'LIMIT', 0, most)
if #names > 0 then
  local fields = {}
  for i, name in ipairs(names) do
    fields[i] = 'm' .. name
  end
  local records, indexes = call('HMGET', MAILBOX, unpack(names)), call('HMGET', QUEUE, unpack(fields))
  for i, name in ipairs(names) do
    local box = box_of(name, records[i])
    if not box then
      lost('mailbox')
    elseif settle(box) then
      local own = (owns[name] or indexes[i]) and own_of(name, indexes[i])
      local job, due_s, campaign
      if own then
        job, due_s, campaign = own_job(box, own)
      end
      if job then
        unfree(box)
        propose(box, job, campaign, 0, 1, 0, due_s)
      else
        set_free(box, own and (own.parked > 0 or #own.active > 0))
      end
    end
  end
end

-- Choices among the free. `fresh` are the mailboxes of a lane freed in this call, by key; the
-- others are in the sorted set, of which `page` is the beginning.
local function by_key(a, b)
  if a[1] ~= b[1] then
    return a[1] < b[1]
  end
  return a[2].id < b[2].id
end

local stored = call('ZCARD', FREE) > 0

local function open_lane(lane)
  local found = lane_of(lane)
  if not found.opened then
    table.sort(found.fresh, by_key)
    found.opened = true
    found.stored = stored
      and call('ZCOUNT', FREE, found.base, found.base + LANE - 1) > 0
  end
  return found
end

local function paged(lane)
  local page = lane.page
  while true do
    local one = page[lane.at]
    if one then
      local box = boxes[one.name]
      if not box or box.r[IS_FREE] > 0 then
        return one
      end
      lane.at = lane.at + 1
    else
      local raw = call(
        'ZRANGEBYSCORE', FREE, lane.base, lane.base + LANE - 1, 'WITHSCORES', 'LIMIT', 0, PAGE
      )
      page = {}
      for i = 1, #raw, 2 do
        local name = string.sub(raw[i], 3)
        page[#page + 1] = {
          tonumber(raw[i + 1]) - lane.base, { id = sunpack('>I8', name) }, name = name,
        }
      end
      lane.page, lane.at = page, 1
      if #page == 0 then
        lane.stored = false
        return nil
      end
    end
  end
end

-- The entry of least key of one lane.
local function least(lane)
  local fresh, i = lane.fresh, lane.first
  while fresh[i] and not fresh[i][2].fresh do
    i = i + 1
  end
  lane.first = i
  local best = fresh[i]
  local one = lane.stored and paged(lane)
  if one and (not best or by_key(one, best)) then
    return one
  end
  return best
end

-- The entry of least key beyond `cursor`.
local function beyond(lane, cursor)
  local fresh, low, high = lane.fresh, 1, #lane.fresh + 1
  while low < high do
    local middle = floor((low + high) / 2)
    if fresh[middle][1] > cursor then
      high = middle
    else
      low = middle + 1
    end
  end
  while fresh[low] and not fresh[low][2].fresh do
    low = low + 1
  end
  local best = fresh[low]
  if lane.stored then
    local raw = call(
      'ZRANGEBYSCORE', FREE, '(' .. string.format('%.0f', lane.base + cursor),
      lane.base + LANE - 1, 'WITHSCORES', 'LIMIT', 0, 1
    )
    if raw[1] then
      local name = string.sub(raw[1], 3)
      local one = { tonumber(raw[2]) - lane.base, { id = sunpack('>I8', name) }, name = name }
      if not best or by_key(one, best) then
        return one
      end
    end
  end
  return best
end

-- Entry n (from 0) of a lane, which stands wholly in the sorted set.
local function nth(lane, n)
  local first = call('ZCOUNT', FREE, '-inf', '(' .. string.format('%.0f', lane.base))
  local found = call('ZRANGE', FREE, first + n, first + n, 'WITHSCORES')
  return { tonumber(found[2]) - lane.base, name = string.sub(found[1], 3) }
end

local function flush(lane, number)
  if not lane.flushed then
    local values = {}
    for _, one in ipairs(lane.fresh) do
      if one[2].fresh then
        values[#values + 1] = lane.base + one[1]
        values[#values + 1] = member(number, one[2].name)
        one[2].flushed = true
      end
    end
    many('ZADD', FREE, values)
    lane.flushed = true
  end
end

local function at_random(numbers, pick)
  local counts, total = {}, 0
  for i, number in ipairs(numbers) do
    local lane = lane_of(number)
    flush(lane, number)
    counts[i] = call('ZCOUNT', FREE, lane.base, lane.base + LANE - 1)
    total = total + counts[i]
  end
  local n = floor(pick * total)
  for i, number in ipairs(numbers) do
    if n < counts[i] then
      return nth(lane_of(number), n)
    end
    n = n - counts[i]
  end
end

local function best_of(numbers, choose, cursor)
  local best
  for _, number in ipairs(numbers) do
    local one = choose(open_lane(number), cursor)
    if one and (not best or by_key(one, best)) then
      best = one
    end
  end
  return best
end

-- Whether a rank better than `rank` (from 0) has an open member; those seen closed stay closed.
local function outranked(pool, rank)
  pool.closed = pool.closed or {}
  for level = 1, math.min(rank, #pool[4]) do
    local members, i = pool[4][level], pool.closed[level] or 1
    while members[i] do
      local box = box_of(name_of(members[i]))
      local r = box and box.r
      if r and r[LEFT] ~= 0 and r[FROM] <= now and now < r[UNTIL] then
        break
      end
      i = i + 1
    end
    pool.closed[level] = i
    if members[i] then
      return true
    end
  end
  return false
end

local function choose(pool, numbers, c, pick)
  local mode = pool[2]
  if mode == RANDOM then
    return at_random(numbers, pick)
  end
  local best
  if mode == ROUND_ROBIN then
    local cursor = c.cursors[pool[1]]
    best = cursor and best_of(numbers, beyond, cursor)
  end
  best = best or best_of(numbers, least)
  if best and mode == PRIORITY and outranked(pool, floor(best[1] / RANK)) then
    return nil
  end
  return best
end

local function lanes_for(pool, host)
  pool.by_host = pool.by_host or {}
  local found = pool.by_host[host]
  if not found then
    found = {}
    for i = 1, #pool[3], 2 do
      if host < 0 or pool[3][i + 1] == host then
        found[#found + 1] = pool[3][i]
      end
    end
    pool.by_host[host] = found
  end
  return found
end

local function spend(box, pool, key)
  local r = box.r
  for i = PLACES, #r, 5 do
    if r[i + 1] == pool and r[i + 2] == WEIGHTED then
      r[i + 4] = key + floor(STRIDE / r[i + 3])
      if key > virtual(pool) then
        virtuals[pool] = key
        call('HSET', META, 'v' .. name_of(pool), key)
      end
      if key >= MAX_VIRTUAL then
        -- Rather rebuilt than counted wrong.
        served = MAX_SERVED
      end
    end
  end
end

-- A free mailbox of one tier, and its pool.
local function pick_in(match, c, tier, pools, host, pick)
  local start, matching = 0, host ~= 0 and match ~= OFF
  if #pools > 1 then
    for n, pool in ipairs(pools) do
      if pool[1] == c.pools[tier] then
        start = n
      end
    end
  end
  for pass = matching and 1 or 2, (matching and match == STRICT) and 1 or 2 do
    for n = 0, #pools - 1 do
      local pool = pools[(start + n) % #pools + 1]
      local numbers = lanes_for(pool, pass == 1 and host or -1)
      local one = choose(pool, numbers, c, pick)
      while one do
        local box = one.name and (box_of(one.name) or lost('mailbox')) or one[2]
        if box.fresh or settle(box) then
          unfree(box)
          c.pools[tier] = pool[1]
          if pool[2] == ROUND_ROBIN then
            c.cursors[pool[1]] = one[1]
          else
            spend(box, pool[1], one[1])
          end
          return box, pool[1]
        end
        one = choose(pool, numbers, c, pick)
      end
    end
  end
end

local wake_at = -1

local function by_head(a, b)
  if a.due ~= b.due then
    return a.due < b.due
  end
  if a.job ~= b.job then
    return a.job < b.job
  end
  return a.host < b.host
end

-- Serves one head job of a campaign; tells whether it did.
local function serve(c)
  local route, heads = route_of(c.name) or lost('route'), {}
  for host, l in pairs(c.lists) do
    if not l.stuck then
      l.host, l.job, l.due = host, peek(l)
      heads[#heads + 1] = l
    end
  end
  if #heads > 1 then
    table.sort(heads, by_head)
  end
  for _, l in ipairs(heads) do
    for number, tier in ipairs(route.tiers) do
      local box, pool = pick_in(route.match, c, number, tier[2], l.host, picks[made + 1])
      if box then
        if not drop(l) then
          c.lists[l.host] = nil
        end
        propose(box, l.job, c.id, pool, 0, l.host, l.due)
        c.turn, c.dirty, c.served = served, true, true
        return true
      end
      if tier[1] < 0 then
        break
      end
      local at = l.due * 1000 + tier[1]
      if now < at then
        wake_at = wake_at < 0 and at or math.min(wake_at, at)
        break
      end
    end
    l.stuck = true
  end
  return false
end

-- Campaigns in turn: those of the sorted set, page by page, then the served ones again.
local page, at, seen, again, first = {}, 1, 0, {}, 1
local function next_campaign()
  if seen and not page[at] then
    page, at = call('ZRANGE', TURN, seen, seen + PAGE - 1), 1
    seen = #page > 0 and seen + #page
  end
  if page[at] then
    at = at + 1
    local c = campaign_of(page[at - 1])
    return next(c.lists) and c or lost('queue')
  end
  first = first + 1
  return again[first - 1]
end

while made < most and free_entries > 0 do
  local c = next_campaign()
  if not c then
    break
  end
  if serve(c) and next(c.lists) then
    again[#again + 1] = c
  end
end

-- Everything that changed, written once.
local turns, gone, sets, dels = {}, {}, {}, {}
for name, c in pairs(campaigns) do
  if c.served then
    if next(c.lists) then
      turns[#turns + 1] = c.turn
      turns[#turns + 1] = name
    else
      gone[#gone + 1] = name
    end
  end
  if c.dirty then
    local lists = {}
    for host, l in pairs(c.lists) do
      lists[host] = { l.head, l.tail, l.offset }
    end
    sets[#sets + 1] = 'c' .. name
    sets[#sets + 1] = pack({ c.turn, lists, c.pools, c.cursors })
  end
end
local function positions(some)
  local found = {}
  for i, l in ipairs(some) do
    found[i] = { l.id, l.head, l.tail, l.offset }
  end
  return found
end
for name, own in pairs(owns) do
  if own.dirty then
    if own.parked > 0 or #own.active > 0 then
      sets[#sets + 1] = 'm' .. name
      sets[#sets + 1] = pack({ own.rotation, own.klass, positions(own.active), own.parked })
    else
      dels[#dels + 1] = 'm' .. name
    end
    if own.parked > 0 and own.resting then
      sets[#sets + 1] = 'p' .. name
      sets[#sets + 1] = pack(positions(own.resting))
    elseif own.parked == 0 and own.resting then
      dels[#dels + 1] = 'p' .. name
    end
  end
end
for field, c in pairs(chunks) do
  if c.dirty then
    if c.n > 0 then
      sets[#sets + 1] = field
      sets[#sets + 1] = c.blob
    else
      dels[#dels + 1] = field
    end
  end
end
many('ZADD', TURN, turns)
many('ZREM', TURN, gone)
many('HSET', QUEUE, sets)
many('HDEL', QUEUE, dels)

local records, instants, entries, holders = {}, {}, {}, {}
for name, box in pairs(boxes) do
  if box and box.dirty then
    local r = box.r
    records[#records + 1] = name
    records[#records + 1] = pack(r)
    if box.fresh then
      for i = PLACES, #r, 5 do
        entries[#entries + 1] = r[i] * LANE + score_of(r, i)
        entries[#entries + 1] = member(r[i], name)
      end
    end
  end
end
for _, box in ipairs(held) do
  if box.r[IS_FREE] == 2 then
    holders[#holders + 1] = box.name
  end
end
for name, ms in pairs(ready) do
  instants[#instants + 1] = ms
  instants[#instants + 1] = name
end
many('HSET', MAILBOX, records)
many('ZADD', FREE, entries)
many('SADD', HELD, holders)
many('ZADD', READY, instants)
call('HSET', META, 'served', served)

for _, key in ipairs({ READY, DUE }) do
  local head = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if head[2] and (wake_at < 0 or tonumber(head[2]) < wake_at) then
    wake_at = tonumber(head[2])
  end
end
if made >= most or call('EXISTS', INCOMING) == 1 then
  wake_at = now
elseif wake_at >= 0 then
  wake_at = math.max(wake_at, now)
end
return pack({ epoch, now, wake_at, proposals, stale })
