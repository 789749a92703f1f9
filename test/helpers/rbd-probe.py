"""What a cephx user may do, tried one thing after the other through Debian's python3-rbd.

Reads a task from standard input: {"configuration", "user", "keyring", "pool", "probes": [[name, verb, arguments...], ...]},
and prints one JSON object: the result of each probe by its name, "ok", or what was read (latin1), or the name of the errno
that it was refused with. The key stands only in the keyring file. A user that cannot connect: {"connect": errno name}.
"""
import errno
import json
import sys

import rados
import rbd

OPTIONS = {"client_mount_timeout": "10", "rados_osd_op_timeout": "20", "rados_mon_op_timeout": "10", "rbd_cache": "false"}
task = json.load(sys.stdin)


def image(name, work, by_id=False, read_only=False):
    which = {"image_id": name} if by_id else {"name": name}
    with rbd.Image(context, read_only=read_only, **which) as opened:
        return work(opened)


def write(opened, offset, text):
    opened.write(text.encode("latin1"), offset)
    opened.flush()


def command(words, monitor=None):
    code, _, text = cluster.mon_command(json.dumps(words), b"", timeout=10, target=monitor)
    if code < 0:
        raise rados.OSError(text, errno=-code)


def list_objects():
    return [entry.key for entry in context.list_objects()]


def set_omap(name):
    with rados.WriteOpCtx() as operation:
        context.set_omap(operation, ("x",), (b"x",))
        context.operate_write_op(operation, name)


def get_omap(name):
    with rados.ReadOpCtx() as operation:
        values, code = context.get_omap_vals(operation, "", "", 10)
        context.operate_read_op(operation, name)
        list(values)


VERBS = {
    "read": lambda name, offset, length: image(name, lambda each: each.read(offset, length).decode("latin1")),
    "read-only": lambda name, offset, length: image(
        name, lambda each: each.read(offset, length).decode("latin1"), read_only=True
    ),
    "write": lambda name, offset, text: image(name, lambda each: write(each, offset, text)),
    "discard": lambda name, offset, length: image(name, lambda each: each.discard(offset, length)),
    "open": lambda name: image(name, lambda each: None),
    "open-id": lambda identity: image(identity, lambda each: None, by_id=True),
    "list": lambda: rbd.RBD().list(context),
    "trash-list": lambda: list(rbd.RBD().trash_list(context)),
    "create": lambda name: rbd.RBD().create(context, name, 2**22),
    "clone": lambda parent, snapshot, name: rbd.RBD().clone(context, parent, snapshot, context, name),
    "rename": lambda name, other: rbd.RBD().rename(context, name, other),
    "remove": lambda name: rbd.RBD().remove(context, name),
    "trash": lambda name: rbd.RBD().trash_move(context, name, 0),
    "snapshot": lambda name: image(name, lambda each: each.create_snap("mine")),
    "remove-snapshot": lambda name, snapshot: image(name, lambda each: each.remove_snap(snapshot)),
    "resize": lambda name, size: image(name, lambda each: each.resize(size)),
    "metadata": lambda name: image(name, lambda each: each.metadata_set("x", "y")),
    "flatten": lambda name: image(name, lambda each: each.flatten()),
    "object-read": lambda name: context.read(name, 16) and None,
    "object-write": lambda name: context.write_full(name, b"x"),
    "object-remove": lambda name: context.remove_object(name),
    "object-list": list_objects,
    "omap-read": get_omap,
    "omap-write": set_omap,
    "snapshot-id-make": lambda: context.create_self_managed_snap(),
    "snapshot-id-remove": lambda identity: context.remove_self_managed_snap(identity),
    "monitor": command,
}


def outcome(act):
    try:
        result = act()
        return result if isinstance(result, str) else "ok"
    except (rados.Error, rbd.Error) as failure:
        return errno.errorcode.get(abs(failure.errno or 0), repr(failure))


def connect():
    cluster.connect()


cluster = rados.Rados(conffile=task["configuration"], rados_id=task["user"], conf={"keyring": task["keyring"], **OPTIONS})
connected = outcome(connect)
if connected != "ok":
    print(json.dumps({"connect": connected}))
else:
    context = cluster.open_ioctx(task["pool"])
    print(json.dumps({name: outcome(lambda: VERBS[verb](*rest)) for name, verb, *rest in task["probes"]}))
    context.close()
    cluster.shutdown()
