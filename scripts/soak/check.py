"""The soak's checker: replays what the clients asked and were told against the final state of Ceph and store.

Shares nothing with the controller: reads the histories, the documents in Redis by its protocol, and the pool through
Debian's python3-rados and python3-rbd. Everything must have come to rest. Prints {"checked": facts looked at, "violations":
[a sentence each]}.
"""
import argparse
import collections
import glob
import json
import os
import re
import socket

import rados
import rbd

HERE = ("available",)
AWAY = ("deleted", "purging", "gone")
UNFINISHED = re.compile("_(CREATING|DELETING|PENDING|EXPORTING|UNEXPORTING)$")
UNKNOWN = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
# What a caller may be told for good; anything else is nobody's fault but ours.
REFUSALS = ("FAILED_PRECONDITION", "ABORTED", "NOT_FOUND", "RESOURCE_EXHAUSTED") + UNKNOWN

options = argparse.ArgumentParser()
for name in ("histories", "configuration", "pool", "redis", "prefix"):
    options.add_argument("--" + name, required=True)
options = options.parse_args()
violations = []
versions = {}
checked = 0


def expect(holds, sentence):
    global checked
    checked += 1
    if not holds:
        violations.append(sentence)


# --- the store ------------------------------------------------------------------------------------------------------------


class Redis:
    """As much of the protocol as it takes to read."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.stream = socket.create_connection((host, int(port)), timeout=30).makefile("rwb")

    def call(self, *words):
        encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.stream.write(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded))
        self.stream.flush()
        return self.read()

    def read(self):
        line = self.stream.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self.stream.read(length + 2)[:-2]
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest


def read_store():
    redis = Redis(options.redis)
    prefix = (options.prefix + "d:").encode()
    documents, cursor = {}, b"0"
    while True:
        cursor, names = redis.call("SCAN", cursor, "MATCH", prefix + b"*", "COUNT", 1000)
        for name in names:
            text = redis.call("GET", name)
            if text is not None:
                version, _, value = text.split(b"\n", 2)
                documents[name[len(prefix):].decode()] = json.loads(value)
                versions[name[len(prefix):].decode()] = int(version)
        if cursor == b"0":
            return documents


documents = read_store()


def kind_of(kind):
    return {key.split("/", 1)[1]: value for key, value in documents.items() if key.split("/", 1)[0] == kind}


volumes, snapshots, exports = kind_of("volume"), kind_of("snapshot"), kind_of("export")

# --- the histories --------------------------------------------------------------------------------------------------------

events = []
for file in glob.glob(os.path.join(options.histories, "*.jsonl")):
    with open(file) as lines:
        events += [json.loads(line) for line in lines]
events.sort(key=lambda event: event["at"])


class Told:
    """What one token asked for, and everything that its callers were told."""

    def __init__(self, event):
        self.token, self.method, self.request = event["token"], event["method"], event["request"]
        self.asked, self.done, self.answer = event["at"], None, None
        self.ids, self.calls, self.answers = set(), 0, 0
        self.refused, self.operation, self.in_the_way = None, None, []


told = collections.OrderedDict()
reads = []
open_reads = {}
marks = collections.defaultdict(list)  # volume: (offset, mark, when it was there)
for event in events:
    kind = event["event"]
    if kind == "written":
        marks[event["volumeId"]].append((event["offset"], event["mark"], event["at"]))
    if kind in ("writing", "written"):
        continue
    token, method = event["token"], event["method"]
    if method.startswith(("get", "list")):
        if kind == "call":
            open_reads[token] = event
        else:
            reads.append((open_reads[token], event))
        continue
    if kind == "call":
        one = told.setdefault(token, Told(event))
        one.calls += 1
        continue
    one = told[token]
    one.answers += 1
    if kind == "error":
        expect(event["code"] in REFUSALS, f"{method} told {event['code']} {event['reason']}: {event['message']}")
        if event["code"] not in UNKNOWN and one.done is None:
            one.refused = event
        one.in_the_way.append(event["message"])
        continue
    answer = event["answer"]
    # An export that is gone is not in the answer.
    one.ids |= {answer["id"]} if answer.get("id") else set()
    one.operation = answer.get("operationId") or one.operation
    finished = not UNFINISHED.search(answer.get("state") or "")
    if method == "undeleteVolume":
        # It stays deleted until it is done: what works on it tells whether it is.
        finished = not answer.get("working") or answer["working"] != answer.get("operationId")
    if method == "expandVolume":
        finished = int(answer.get("sizeBytes") or 0) >= int(one.request["sizeBytes"])
    if finished and one.done is None:
        one.done, one.answer, one.refused = event["at"], answer, None

for one in told.values():
    expect(one.answers == one.calls, f"{one.method} with token {one.token} was asked {one.calls} times and answered {one.answers}")
    expect(one.done is not None or one.refused is not None, f"{one.method} with token {one.token} was never answered for good")
    itself = one.operation is not None and any(one.operation in message for message in one.in_the_way)
    expect(not itself, f"{one.method} with token {one.token} was refused because of itself ({one.operation})")
    expect(len(one.ids) <= 1, f"one token of {one.method} was answered with {sorted(map(str, one.ids))}")

# --- what must be -----------------------------------------------------------------------------------------------------------

changes = collections.defaultdict(list)  # volume or snapshot: what was asked about its being there, oldest first
sizes = collections.defaultdict(list)
made_from = {}
made_at = {}
for one in told.values():
    if one.method in ("createVolume", "createSnapshot"):
        if one.done is not None:
            changes[one.answer["id"]].append(one)
            made_at[one.answer["id"]] = one
            if one.method == "createVolume":
                sizes[one.answer["id"]].append((one, int(one.request["sizeBytes"])))
                made_from[one.answer["id"]] = (one.request.get("source") or {}).get("snapshotId")
    elif one.method in ("deleteVolume", "undeleteVolume"):
        changes[one.request["volumeId"]].append(one)
    elif one.method == "deleteSnapshot":
        changes[one.request["snapshotId"]].append(one)
    elif one.method == "expandVolume":
        sizes[one.request["volumeId"]].append((one, int(one.request["sizeBytes"])))


def known_state(id):
    """Whether it must be there (True), must not (False), or is in somebody's error state (None)."""
    done = [one for one in changes[id] if one.done is not None]
    last = done[-1]
    if last.method.startswith("create") and last.answer["state"].endswith("_ERROR"):
        return None
    return not last.method.startswith("delete")


def is_here(document):
    return document is not None and document["state"] in ("available", "completed")


for id in changes:
    document = (volumes if id.startswith("vol-") else snapshots).get(id)
    state = "not in the store" if document is None else document["state"]
    wanted = known_state(id)
    if wanted is True:
        expect(is_here(document), f"{id} must be there and is {state}: {changes[id][-1].method}")
    elif wanted is False:
        expect(document is None or state in AWAY, f"{id} was deleted and is {state}")

for id, asked in sizes.items():
    document = volumes.get(id)
    if is_here(document):
        wanted = max([size for one, size in asked if one.done is not None], default=0)
        most = max(size for _, size in asked)
        expect(wanted <= document["sizeBytes"] <= most, f"{id} has {document['sizeBytes']} bytes, not {wanted}")

for kind, documents_of in (("volume", volumes), ("snapshot", snapshots)):
    names = collections.Counter(one["displayName"] for one in documents_of.values() if one.get("displayName"))
    for name, count in names.items():
        expect(count == 1, f"one call made {count} of the {kind} {name}")

# --- what was read ----------------------------------------------------------------------------------------------------------


def must_be(id, since, until):
    """What has been so all the time between two moments: True, False, or None when it was changing or is not known."""
    state = None
    for one in changes[id]:
        if one.asked > until:
            break
        if one.refused is not None:
            continue
        if one.done is None or one.done > since:
            return None
        if one.answer["state"].endswith("_ERROR"):
            return None
        state = not one.method.startswith("delete")
    return state


for call, event in reads:
    if call["method"] == "listVolumes":
        if event["event"] != "answer" or event["answer"].get("more"):
            continue
        listed = event["answer"]["states"]
        for id in changes:
            if not id.startswith("vol-"):
                continue
            wanted = must_be(id, call["at"], event["at"])
            if wanted is not None:
                shown = listed.get(id) == "VOLUME_STATE_AVAILABLE"
                expect(shown == wanted, f"{id} was {'there' if wanted else 'deleted'} and listed as {listed.get(id)}")
    else:
        id = call["request"]["volumeId"]
        wanted = must_be(id, call["at"], event["at"])
        if wanted is None or (event["event"] == "error" and event["code"] in UNKNOWN):
            continue
        shown = event["event"] == "answer" and event["answer"]["state"] == "VOLUME_STATE_AVAILABLE"
        expect(shown == wanted, f"{id} was {'there' if wanted else 'deleted'} and read as {event.get('answer') or event['code']}")

# --- what was watched -------------------------------------------------------------------------------------------------------

WATCHED = ("volume", "snapshot", "export", "node", "pool")
mirror, synced, told_since, latest = {}, 0, set(), 0
with open(os.path.join(options.histories, "watched.log")) as lines:
    for line in map(json.loads, lines):
        kind, key = line["kind"], (line.get("of", line["kind"]), line.get("id"))
        if kind == "failure":
            expect(False, f"the watch ended: {line['message']}")
        elif kind == "synced":
            synced += 1
        elif kind == "gone":
            mirror.pop(key, None)
        else:
            version = line["version"]
            # What changes while all is listed is told once more; so is what belongs to the commit in whose midst it was cut.
            again = synced > 0 and (key, version) in told_since and version < latest
            expect(not again, f"{key[1]} was told twice as of {version}")
            latest = max(latest, version)
            expect(mirror.get(key, 0) <= version, f"{key[1]} was told as of {version} after {mirror.get(key)}")
            mirror[key] = version
            told_since.add((key, version))
there = {
    (kind, key.split("/", 1)[1]): versions[key]
    for kind in WATCHED
    for key, one in documents.items()
    if key.startswith(kind + "/") and one.get("state") != "gone"
}
expect(synced > 0, "the watch never told that it had told all")
for key in there.keys() | mirror.keys():
    expect(mirror.get(key) == there.get(key), f"{key[1]} is in the store as of {there.get(key)}, and was watched as of {mirror.get(key)}")

# --- exports ----------------------------------------------------------------------------------------------------------------

held = {}  # export: (volume, node, from, until)
taken_back = set()
for one in told.values():
    if one.method == "export" and one.done is not None:
        id = one.answer["id"]
        node = one.request["direct"]["nodeId"]
        expect(one.answer["nodeId"] == node, f"{id} is for {one.answer['nodeId']}, asked was {node}")
        since = min(one.done, held[id][2]) if id in held else one.done
        held[id] = (one.request["volumeId"], node, since, float("inf"))
for one in told.values():
    if one.method == "unexport" and one.request["exportId"] in held:
        id = one.request["exportId"]
        volume, node, since, until = held[id]
        held[id] = (volume, node, since, min(until, one.asked))
        if one.done is not None:
            taken_back.add(id)
by_volume = collections.defaultdict(list)
for id, (volume, node, since, until) in held.items():
    by_volume[volume].append((since, until, node, id))
for volume, spans in by_volume.items():
    spans.sort()
    for (_, until, node, id), (since, _, other, next_id) in zip(spans, spans[1:]):
        expect(until <= since or node == other, f"{volume} was exported to {node} ({id}) and to {other} ({next_id}) at once")
for id, (volume, _, _, until) in held.items():
    if id in taken_back:
        document = exports.get(id)
        expect(document is None or document["state"] == "gone", f"{id} was taken back and is {document and document['state']}")
    elif until == float("inf"):
        expect(exports.get(id, {}).get("state") == "exported", f"{id} was given out and is not there")

# --- nothing is left over ---------------------------------------------------------------------------------------------------

running = {id for id, one in kind_of("op").items() if one["state"] == "running"}
expect(not running, f"operations still run: {sorted(running)}")
for key, lock in documents.items():
    if key.startswith("lock/"):
        expect(not lock["holders"], f"{key} is held by {lock['holders']}")
for id, one in list(volumes.items()) + list(snapshots.items()):
    expect(one["state"] in ("available", "completed") + AWAY, f"{id} is {one['state']}: {one.get('statusMessage')}")

cluster = rados.Rados(conffile=options.configuration, rados_id="admin")
cluster.connect()
pool = cluster.open_ioctx(options.pool)
alive = {name.decode() if isinstance(name, bytes) else name for name in rbd.RBD().list(pool)}
trashed = {entry["name"]: entry["id"] for entry in rbd.RBD().trash_list(pool)}
owned = {one["image"]["name"]: (id, one) for id, one in list(volumes.items()) + list(snapshots.items()) if one.get("image")}
debris = {one["name"] for one in kind_of("debris").values()}
for name in list(alive) + list(trashed):
    expect(name in owned or name in debris, f"the image {name} is nobody's")
for name, (id, one) in owned.items():
    if one["state"] in ("available", "completed"):
        expect(name in alive, f"{id} is {one['state']} and has no image {name}")
    elif one["state"] == "deleted":
        expect(name not in alive and name in trashed, f"{id} is deleted and its image {name} is not in the trash")

code, out, text = cluster.mon_command(json.dumps({"prefix": "auth ls", "format": "json"}), b"")
assert code == 0, text
users = {re.sub(r"^client\.moorage\.", "", one["entity"]) for one in json.loads(out)["auth_dump"] if ".exp-" in one["entity"]}
exported = {id for id, one in exports.items() if one["state"] == "exported"}
for id in users - exported:
    violations.append(f"Ceph has a user of {id}, which is not exported")
for id in exported - users:
    violations.append(f"{id} is exported and has no user")
checked += len(users | exported)


def catalogue():
    for shard in range(64):
        name, after = "moorage_catalogue.%02x" % shard, ""
        while True:
            with rados.ReadOpCtx() as operation:
                values, _ = pool.get_omap_vals(operation, after, "", 500)
                try:
                    pool.operate_read_op(operation, name)
                except rados.ObjectNotFound:
                    break
                found = [key for key, _ in values]
            yield from found
            if len(found) < 500:
                break
            after = found[-1]


entries = {key.rsplit("/", 1)[-1] for key in catalogue()}
living = {id for id, one in list(volumes.items()) + list(snapshots.items()) if one["state"] != "gone"}
for id in entries - living - exported:
    violations.append(f"the catalogue has an entry of {id}, which is not in the store")
for id in (living | exported) - entries:
    violations.append(f"{id} has no entry in the catalogue")
checked += len(entries | living | exported)

# --- what is in them --------------------------------------------------------------------------------------------------------


def marks_of(id, until=float("inf")):
    """What must be in a volume or snapshot: what was written before it was asked for, also in what it came from."""
    if id.startswith("snap-"):
        made = made_at[id]
        return marks_of(made.request["volumeId"], made.asked)
    source = made_from.get(id)
    inherited = marks_of(source) if source is not None and source in made_at else []
    return inherited + [(offset, mark) for offset, mark, at in marks[id] if at < until]


for name, (id, one) in owned.items():
    if one["state"] not in ("available", "completed") or name not in alive:
        continue
    snapshot = "base" if id.startswith("snap-") else None
    with rbd.Image(pool, name, snapshot=snapshot, read_only=True) as image:
        expect(image.size() == one["sizeBytes"], f"{id} has {one['sizeBytes']} bytes and its image {image.size()}")
        parent = one["image"].get("parent")
        try:
            found = image.parent_id()
        except rbd.ImageNotFound:
            found = None
        expect(found == (parent and parent["backendId"]), f"the image of {id} has the parent {found}, not {parent}")
        for offset, mark in marks_of(id) if id in made_at else []:
            read = image.read(offset, 512).rstrip(b"\0").decode("latin1")
            expect(read == mark, f"{id} has {read!r} at {offset} instead of {mark}")

pool.close()
cluster.shutdown()
final = {"documents": documents, "images": sorted(alive), "trash": trashed, "catalogue": sorted(entries), "users": sorted(users)}
with open(os.path.join(options.histories, "final.json"), "w") as file:
    json.dump(final, file, indent=1)
print(json.dumps({"checked": checked, "violations": violations}))
