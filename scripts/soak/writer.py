"""A node's program: writes one mark into an exported volume through librbd, flushes, and ends.

Reads {"configuration", "user", "key", "pool", "image", "offset", "mark"} from standard input, so that the key stands in no
file, argument or variable. Prints "written" once the mark is flushed; ends with 1 when it could not, or does not know.
"""
import json
import sys

import rados
import rbd

task = json.load(sys.stdin)
cluster = rados.Rados(
    conffile=task["configuration"],
    rados_id=task["user"],
    conf={
        "key": task["key"],
        "client_mount_timeout": "10",
        "rados_osd_op_timeout": "15",
        "rados_mon_op_timeout": "10",
        "rbd_cache": "false",
    },
)
try:
    cluster.connect()
    with cluster.open_ioctx(task["pool"]) as context, rbd.Image(context, task["image"]) as image:
        image.write(task["mark"].encode().ljust(512, b"\0"), task["offset"])
        image.flush()
        print("written", flush=True)
except (rados.Error, rbd.Error) as failure:
    print(f"not written: {failure}", file=sys.stderr)
    sys.exit(1)
finally:
    cluster.shutdown()
