"""Drives the whole API from another language, with nothing of Moorage's own but what protos/ says.

Usage: python_client.py DESCRIPTORS TARGET CEPH_POOL
  DESCRIPTORS  FileDescriptorSet of protos/moorage/v1, with what it imports
  TARGET       where the controller serves plain text, as "unix:/path" or "127.0.0.1:7420"
  CEPH_POOL    name of the Ceph pool, in the cluster "main" of the controller's configuration

Ends with 0 and prints how many methods it called when everything was as protos/ promises.

Messages and stubs are made of the descriptors when it runs: the protoc in Debian 12's python3-grpc-tools is of 2018 and
does not know `optional` in proto3.
"""

import json
import os
import sys
import uuid

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DESCRIPTORS, TARGET, CEPH_POOL = sys.argv[1:4]

MIB = 1 << 20
TIMEOUT_SECONDS = 30
called = set()


with open(DESCRIPTORS, "rb") as file:
    descriptor_set = descriptor_pb2.FileDescriptorSet.FromString(file.read())
own = [each for each in descriptor_set.file if each.package == "moorage.v1"]
messages = message_factory.GetMessages(descriptor_set.file)
descriptors = messages["moorage.v1.Volume"].DESCRIPTOR.file.pool
Duration = messages["google.protobuf.Duration"]
FieldMask = messages["google.protobuf.FieldMask"]


class Messages:
    """The messages and the values of enumerations of moorage.v1, by their names."""

    def __getattr__(self, name):
        if name.isupper():
            for file in own:
                for enum in file.enum_type:
                    for value in enum.value:
                        if value.name == name:
                            return value.number
        return messages["moorage.v1." + name]


v1 = Messages()


class Service:
    """A service whose calls have a deadline, and that remembers what was called."""

    def __init__(self, name):
        self._descriptor = descriptors.FindServiceByName("moorage.v1." + name)

    def __getattr__(self, method):
        found = self._descriptor.methods_by_name[method]
        path = "%s/%s" % (self._descriptor.full_name, method)
        call = channel.unary_unary(
            "/" + path,
            request_serializer=messages[found.input_type.full_name].SerializeToString,
            response_deserializer=messages[found.output_type.full_name].FromString,
        )

        def run(request):
            called.add(path)
            return call(request, timeout=TIMEOUT_SECONDS)

        return run


    def stream(self, method, request):
        """Calls a method that answers with a stream."""
        found = self._descriptor.methods_by_name[method]
        path = "%s/%s" % (self._descriptor.full_name, method)
        called.add(path)
        return channel.unary_stream(
            "/" + path,
            request_serializer=messages[found.input_type.full_name].SerializeToString,
            response_deserializer=messages[found.output_type.full_name].FromString,
        )(request, timeout=TIMEOUT_SECONDS)


channel = grpc.insecure_channel(TARGET)
storage = Service("StorageControllerService")
nodes = Service("NodeService")
pools = Service("PoolService")
operations = Service("OperationService")
events = Service("EventService")
admin = Service("AdminService")


def token():
    return str(uuid.uuid4())


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def must_fail(call, request, code):
    try:
        call(request)
    except grpc.RpcError as error:
        check(error.code() == code, "%s, not %s: %s" % (error.code(), code, error.details()))
        return error
    raise AssertionError("it did not fail with %s" % code)


def drive_pools():
    created = pools.CreatePool(
        v1.CreatePoolRequest(
            client_token=token(),
            pool_id="py",
            rbd=v1.RbdPoolSettings(cluster="main", ceph_pool=CEPH_POOL),
            undelete_window_seconds=0,
            tags={"language": "python"},
        )
    ).pool
    check(created.id == "py" and created.backend == "rbd", created)
    check(created.WhichOneof("settings") == "rbd", created)
    check(created.rbd.access == v1.RBD_ACCESS_MANAGED, created)
    check(created.undelete_window_seconds == 0, "a window of 0 is not the default")
    check(pools.GetPool(v1.GetPoolRequest(pool_id="py")).pool.tags["language"] == "python", "tags")
    listed = pools.ListPools(v1.ListPoolsRequest()).pools
    check("py" in [pool.id for pool in listed], listed)
    updated = pools.UpdatePool(
        v1.UpdatePoolRequest(
            client_token=token(), pool_id="py", update_mask=FieldMask(paths=["tags.tier"]), tags={"tier": "gold"}
        )
    ).pool
    check(dict(updated.tags) == {"language": "python", "tier": "gold"}, updated)
    check(updated.undelete_window_seconds == 0 and updated.etag != created.etag, updated)


def drive_nodes():
    request = v1.RegisterNodeRequest(
        client_token=token(), node_id="py-node", public_key=os.urandom(32), storage_addresses=["192.0.2.11", "2001:db8::11"]
    )
    node = nodes.RegisterNode(request).node
    check(node.public_key == request.public_key and len(node.public_key_id) == 16, node)
    check(nodes.RegisterNode(request).node == node, "the same token gives the same answer")
    check(nodes.GetNode(v1.GetNodeRequest(node_id="py-node")).node == node, "get")
    node = nodes.UpdateNode(
        v1.UpdateNodeRequest(
            client_token=token(), node_id="py-node", update_mask=FieldMask(paths=["tags"]), tags={"rack": "7"}
        )
    ).node
    check(dict(node.tags) == {"rack": "7"} and node.public_key == request.public_key, node)
    check(node in nodes.ListNodes(v1.ListNodesRequest(page_size=1000)).nodes, "list")
    drive_enrollment()


def drive_enrollment():
    """A node that registers itself with a token, gets another key and is removed."""
    request = v1.CreateEnrollmentTokenRequest(
        client_token=token(), node_id="py-enrolled", lifetime=Duration(seconds=60), tags={"rack": "8"}
    )
    leave = nodes.CreateEnrollmentToken(request)
    check(leave.token.startswith("moorage-enrollment:") and leave.expire_time.seconds > 1600000000, leave.expire_time)
    check(nodes.CreateEnrollmentToken(request) == leave, "the same call again gives the same answer")
    enroll = v1.EnrollRequest(token=leave.token, public_key=os.urandom(32))
    node = nodes.Enroll(enroll).node
    check(node.id == "py-enrolled" and node.public_key == enroll.public_key and dict(node.tags) == {"rack": "8"}, node)
    check(nodes.Enroll(enroll).node == node, "the same key again gives the same node")
    enroll.public_key = os.urandom(32)
    must_fail(nodes.Enroll, enroll, grpc.StatusCode.FAILED_PRECONDITION)
    request = v1.RotateNodeKeyRequest(client_token=token(), node_id="py-enrolled", public_key=os.urandom(32))
    rotated = nodes.RotateNodeKey(request).node
    check(rotated.public_key == request.public_key and rotated.public_key_id != node.public_key_id, rotated)
    nodes.RemoveNode(v1.RemoveNodeRequest(client_token=token(), node_id="py-enrolled"))


def drive_volumes():
    created = storage.CreateVolume(
        v1.CreateVolumeRequest(
            client_token=token(), pool_id="py", size_bytes=8 * MIB, display_name="d\u00fcne \u2713", tags={"a": "b"}
        )
    )
    volume = created.volume
    check(volume.state == v1.VOLUME_STATE_AVAILABLE, volume)
    check(volume.size_bytes == 8 * MIB and volume.display_name == "d\u00fcne \u2713", volume)
    check(volume.create_time.seconds > 1600000000 and not volume.HasField("delete_time"), volume)
    check(not volume.HasField("source"), volume)
    operation = operations.WaitOperation(
        v1.WaitOperationRequest(
            operation_id=created.operation_id, timeout=Duration(seconds=5)
        )
    ).operation
    check(operation.state == v1.OPERATION_STATE_SUCCEEDED, operation)
    check(operation.kind == "volume.create" and operation.resource_id == volume.id, operation)
    got = operations.GetOperation(v1.GetOperationRequest(operation_id=operation.id)).operation
    check(got == operation, got)
    ended = operations.CancelOperation(v1.CancelOperationRequest(operation_id=operation.id)).operation
    check(ended == operation, "one that has ended is left as it is")
    ended = operations.ListOperations(
        v1.ListOperationsRequest(
            resource_id=volume.id, states=[v1.OPERATION_STATE_SUCCEEDED]
        )
    ).operations
    check([each.id for each in ended] == [operation.id], ended)
    check(storage.GetVolume(v1.GetVolumeRequest(volume_id=volume.id)).volume == volume, "get")

    expanded = storage.ExpandVolume(
        v1.ExpandVolumeRequest(
            client_token=token(), volume_id=volume.id, size_bytes=16 * MIB, etag=volume.etag
        )
    ).volume
    check(expanded.size_bytes == 16 * MIB and expanded.etag != volume.etag, expanded)

    updated = storage.UpdateVolume(
        v1.UpdateVolumeRequest(
            client_token=token(),
            volume_id=volume.id,
            update_mask=FieldMask(paths=["display_name", "tags.a", "tags.c"]),
            display_name="renamed",
            tags={"c": "d"},
            etag=expanded.etag,
        )
    ).volume
    check(updated.display_name == "renamed" and dict(updated.tags) == {"c": "d"}, updated)
    check(updated.size_bytes == 16 * MIB and updated.state == v1.VOLUME_STATE_AVAILABLE, updated)

    snapshot = storage.CreateSnapshot(
        v1.CreateSnapshotRequest(client_token=token(), volume_id=volume.id, display_name="s")
    ).snapshot
    check(snapshot.state == v1.SNAPSHOT_STATE_COMPLETED and snapshot.HasField("point_time"), snapshot)
    snapshot = storage.UpdateSnapshot(
        v1.UpdateSnapshotRequest(
            client_token=token(), snapshot_id=snapshot.id, update_mask=FieldMask(paths=["display_name"]), display_name="t"
        )
    ).snapshot
    check(snapshot.display_name == "t" and snapshot.state == v1.SNAPSHOT_STATE_COMPLETED, snapshot)
    check(storage.GetSnapshot(v1.GetSnapshotRequest(snapshot_id=snapshot.id)).snapshot == snapshot, "get")
    snapshots = storage.ListSnapshots(v1.ListSnapshotsRequest(volume_id=volume.id)).snapshots
    check(list(snapshots) == [snapshot], snapshots)

    copy = storage.CreateVolume(
        v1.CreateVolumeRequest(
            client_token=token(), source=v1.VolumeSource(snapshot_id=snapshot.id)
        )
    ).volume
    check(copy.source.WhichOneof("source") == "snapshot_id" and copy.source.snapshot_id == snapshot.id, copy)
    check(copy.size_bytes == 16 * MIB and copy.clone_depth == 2, copy)

    page = storage.ListVolumes(v1.ListVolumesRequest(page_size=1, pool_id="py"))
    check([each.id for each in page.volumes] == [volume.id] and page.next_page_token != "", page)
    rest = storage.ListVolumes(
        v1.ListVolumesRequest(page_size=1, pool_id="py", page_token=page.next_page_token)
    )
    check([each.id for each in rest.volumes] == [copy.id], rest)
    return volume, snapshot, copy


def drive_exports(volume):
    grant = storage.GrantExport(
        v1.GrantExportRequest(
            client_token=token(),
            volume_id=volume.id,
            node_id="py-node",
            instance="web1",
            lifetime=Duration(seconds=60),
        )
    ).grant
    check(grant.id.startswith("grant-") and grant.expire_time.seconds - grant.create_time.seconds == 60, grant)
    request = v1.RevokeGrantRequest(client_token=token(), grant_id=grant.id)
    revoked = storage.RevokeGrant(request).grant
    check(revoked.id == grant.id and revoked.revoke_time.seconds >= grant.create_time.seconds, revoked)
    check(storage.RevokeGrant(request).grant == revoked, "the same call again gives the same answer")
    direct = v1.DirectExport(node_id="py-node", instance="web1")
    request = v1.ExportRequest(client_token=token(), volume_id=volume.id, direct=direct)
    first = storage.Export(request)
    check(first.export.state == v1.EXPORT_STATE_EXPORTED and 0 < len(first.descriptor) <= 3072, first.export)
    check(storage.Export(request).export == first.export, "the same call again gives the same export")
    export = storage.GetExport(v1.GetExportRequest(export_id=first.export.id)).export
    check(export == first.export and export.node_id == "py-node", export)
    listed = storage.ListExports(v1.ListExportsRequest(node_id="py-node")).exports
    check(list(listed) == [export], listed)
    held = storage.GetVolume(v1.GetVolumeRequest(volume_id=volume.id)).volume
    check(list(held.export_ids) == [export.id], held)
    in_use = must_fail(
        storage.DeleteVolume,
        v1.DeleteVolumeRequest(client_token=token(), volume_id=volume.id),
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    check("py-node" in in_use.details(), in_use.details())
    trailers = dict(in_use.trailing_metadata())
    check(b"google.rpc.ErrorInfo" in trailers["grpc-status-details-bin"], "details")
    check(len(trailers["x-request-id"]) > 0, "request id")
    gone = storage.Unexport(v1.UnexportRequest(client_token=token(), export_id=export.id))
    check(not gone.HasField("export"), gone)


def drive_watch(volume):
    """What there is, one change, and going on from a token in a stream of its own."""
    kinds = [v1.RESOURCE_TYPE_VOLUME, v1.RESOURCE_TYPE_POOL]
    stream = events.stream("Watch", v1.WatchRequest(types=kinds))
    told = []
    for event in stream:
        check(event.resume_token != "", event)
        told.append(event)
        if event.WhichOneof("event") == "synced":
            break
    stream.cancel()
    check([event.volume for event in told if event.volume.id == volume.id] == [current(volume)], told)
    check(told[0].pool.id == "py", told[0])
    storage.UpdateVolume(
        v1.UpdateVolumeRequest(
            client_token=token(), volume_id=volume.id, update_mask=FieldMask(paths=["tags.watched"]), tags={"watched": "yes"}
        )
    )
    stream = events.stream("Watch", v1.WatchRequest(types=kinds, resume_token=told[-1].resume_token))
    for event in stream:
        check(event.WhichOneof("event") in ("volume", "bookmark", "synced"), event)
        if event.volume.id == volume.id and event.volume.tags["watched"] == "yes" and event.volume.operation_id == "":
            break
    stream.cancel()
    check(event.volume == current(volume), event)
    must_fail(
        lambda request: list(events.stream("Watch", request)),
        v1.WatchRequest(types=kinds[:1], resume_token=told[-1].resume_token),
        grpc.StatusCode.INVALID_ARGUMENT,
    )


def current(volume):
    return storage.GetVolume(v1.GetVolumeRequest(volume_id=volume.id)).volume


def drive_endings(volume, snapshot, copy):
    deleted = storage.DeleteVolume(
        v1.DeleteVolumeRequest(client_token=token(), volume_id=volume.id)
    ).volume
    check(deleted.state == v1.VOLUME_STATE_DELETED and deleted.HasField("purge_time"), deleted)
    back = storage.UndeleteVolume(
        v1.UndeleteVolumeRequest(client_token=token(), volume_id=volume.id)
    ).volume
    check(back.state == v1.VOLUME_STATE_AVAILABLE and not back.HasField("delete_time"), back)
    hidden = storage.DeleteSnapshot(
        v1.DeleteSnapshotRequest(client_token=token(), snapshot_id=snapshot.id)
    ).snapshot
    check(hidden.state == v1.SNAPSHOT_STATE_DELETED, hidden)
    shown = storage.UndeleteSnapshot(
        v1.UndeleteSnapshotRequest(client_token=token(), snapshot_id=snapshot.id)
    ).snapshot
    check(shown.state == v1.SNAPSHOT_STATE_COMPLETED, shown)
    for each in (volume, copy):
        storage.DeleteVolume(v1.DeleteVolumeRequest(client_token=token(), volume_id=each.id))
    storage.DeleteSnapshot(v1.DeleteSnapshotRequest(client_token=token(), snapshot_id=snapshot.id))
    fenced = nodes.FenceNode(
        v1.FenceNodeRequest(client_token=token(), node_id="py-node", reason="lost")
    ).node
    check(fenced.fence_state == v1.NODE_FENCE_STATE_FENCED and fenced.fence_reason == "lost", fenced)
    let_in = nodes.UnfenceNode(
        v1.UnfenceNodeRequest(client_token=token(), node_id="py-node", clients_are_dead=True)
    ).node
    check(let_in.fence_state == v1.NODE_FENCE_STATE_UNSPECIFIED, let_in)
    request = v1.RemoveNodeRequest(client_token=token(), node_id="py-node")
    nodes.RemoveNode(request)
    nodes.RemoveNode(v1.RemoveNodeRequest(client_token=token(), node_id="py-node"))
    full = must_fail(
        pools.DeletePool,
        v1.DeletePoolRequest(client_token=token(), pool_id="py"),
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    check("not empty" in full.details(), full.details())


def drive_admin():
    for call, request, found in (
        (admin.Check, v1.CheckRequest, "findings"),
        (admin.Repair, v1.RepairRequest, "repaired"),
    ):
        page_token = ""
        while True:
            page = call(request(page_token=page_token))
            check(list(getattr(page, found)) == [], page)
            page_token = page.next_page_token
            if page_token == "":
                break
    must_fail(admin.Rebuild, v1.RebuildRequest(), grpc.StatusCode.FAILED_PRECONDITION)
    try:
        check(admin.BackupStore(v1.BackupStoreRequest()).path.startswith("/"), "path of the copy")
    except grpc.RpcError as error:
        # A store that several controllers share is copied by its own means.
        check(error.code() == grpc.StatusCode.UNIMPLEMENTED, error)


def drive_errors():
    cases = [
        (storage.GetVolume, v1.GetVolumeRequest(volume_id="vol-" + "0" * 17), "NOT_FOUND"),
        (storage.GetVolume, v1.GetVolumeRequest(volume_id="snap-1"), "INVALID_ARGUMENT"),
        (storage.CreateVolume, v1.CreateVolumeRequest(pool_id="py", size_bytes=MIB), "INVALID_ARGUMENT"),
        (
            storage.CreateVolume,
            v1.CreateVolumeRequest(client_token=token(), pool_id="py", size_bytes=(1 << 63) - 1),
            "OUT_OF_RANGE",
        ),
        (storage.ListVolumes, v1.ListVolumesRequest(states=[99]), "INVALID_ARGUMENT"),
        (
            pools.UpdatePool,
            v1.UpdatePoolRequest(client_token=token(), pool_id="py", update_mask=FieldMask(paths=["rbd.access"])),
            "INVALID_ARGUMENT",
        ),
    ]
    for call, request, code in cases:
        must_fail(call, request, getattr(grpc.StatusCode, code))


def encode_string(field, text):
    return bytes([field << 3 | 2, len(text)]) + text.encode()


def read_fields(data):
    """The length-delimited fields of a message, as (number, bytes)."""
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        value, position = read_varint(data, position)
        if tag & 7 == 2:
            yield tag >> 3, data[position : position + value]
            position += value


def read_varint(data, position):
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position


def drive_reflection(version):
    """As grpcurl does it: lists the services, then asks for each one's file and for every file that it imports."""
    path = "/grpc.reflection.%s.ServerReflection/ServerReflectionInfo" % version
    stream = channel.stream_stream(path, request_serializer=None, response_deserializer=None)

    def ask(field, text):
        (answer,) = list(stream(iter([encode_string(field, text)]), timeout=TIMEOUT_SECONDS))
        return dict(read_fields(answer))

    names = [dict(read_fields(service))[1].decode() for _, service in read_fields(ask(7, "")[6])]
    check("moorage.v1.StorageControllerService" in names and "grpc.health.v1.Health" in names, names)
    pool = descriptor_pool.DescriptorPool()
    added = set()

    def add(files):
        for _, data in files:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            for dependency in file.dependency:
                if dependency not in added:
                    # Field 3: by file name.
                    add([each for each in read_fields(ask(3, dependency)[4]) if name_of(each) == dependency])
            if file.name not in added:
                added.add(file.name)
                pool.Add(file)

    def name_of(entry):
        return descriptor_pb2.FileDescriptorProto.FromString(entry[1]).name

    for name in names:
        add(list(read_fields(ask(4, name)[4])))
        check(len(pool.FindServiceByName(name).methods) > 0, name)
    volume = pool.FindMessageTypeByName("moorage.v1.Volume")
    check([field.name for field in volume.fields][:3] == ["id", "pool_id", "size_bytes"], volume)


def drive_vectors():
    """The golden vectors: Python knows every field of theirs and writes the same bytes."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors", "api-v1.json")) as file:
        vectors = json.load(file)
    check(len(vectors) > 50, len(vectors))
    for vector in vectors:
        message = messages[vector["message"]].FromString(bytes.fromhex(vector["hex"]))
        check(len(message.UnknownFields()) == 0, vector["message"])
        check(message.SerializeToString(deterministic=True).hex() == vector["hex"], vector["message"])
        named = {field.camelcase_name for field, _ in message.ListFields()}
        check(named == set(vector["value"]), vector["message"])


def drive_health():
    check_health = channel.unary_unary("/grpc.health.v1.Health/Check")
    check(check_health(b"", timeout=TIMEOUT_SECONDS) == bytes([1 << 3, 1]), "SERVING")


drive_vectors()
drive_pools()
drive_nodes()
made = drive_volumes()
drive_exports(made[2])
drive_watch(made[2])
drive_admin()
drive_endings(*made)
drive_errors()
drive_reflection("v1")
drive_reflection("v1alpha")
drive_health()

expected = {
    "moorage.v1.%s/%s" % (service.name, method.name) for file in own for service in file.service for method in service.method
}
check(called == expected, "not called: %s" % sorted(expected - called))
print("%d methods" % len(called))
