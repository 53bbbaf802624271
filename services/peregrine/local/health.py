"""Whether a local service is ready: by gRPC health, by `/readyz`, or by a port that accepts."""

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from peregrine.local.plan import HOST, Service

_PROBE_SECONDS = 1.0


async def answers(service: Service) -> bool:
    """One probe, over within about a second."""
    match service.probe:
        case "grpc":
            return await _serving(service.address)
        case "http":
            return await _ready(service.ports[0].number)
    return all([await _accepts(port.number) for port in service.ports])


async def _serving(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            response = await stub.Check(
                health_pb2.HealthCheckRequest(), timeout=_PROBE_SECONDS, wait_for_ready=False
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


async def _accepts(port: int) -> bool:
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(HOST, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _ready(port: int) -> bool:
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                request = f"GET /readyz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status.split()[1:2] == [b"200"]
