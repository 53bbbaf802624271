"""Whether a local service is ready: SERVING by gRPC health, or a port that accepts."""

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from peregrine.local.plan import HOST, Service

_PROBE_SECONDS = 1.0


async def answers(service: Service) -> bool:
    """One probe, over within about a second."""
    if service.grpc:
        return await _serving(service.address)
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
