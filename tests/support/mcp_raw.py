"""An MCP server that answers what no SDK would: `python -m tests.support.mcp_raw`.

It speaks JSON-RPC by hand over its standard input and output. Each tool is one kind of answer.
"""

import json
import sys
from typing import Any

DEEP = '{"a":' * 10_000 + "1" + "}" * 10_000
TOOLS = ("deep", "deep_at_the_end", "not_mcp", "talkative", "well")


def result(number: int, body: str, *, last: bool = False) -> str:
    named = f'"jsonrpc":"2.0","id":{number}'
    return f'{{"result":{body},{named}}}' if last else f'{{{named},"result":{body}}}'


def said(words: str, extra: str = "") -> str:
    return f'{{"content":[{{"type":"text","text":"{words}"}}]{extra}}}'


def called(number: int, tool: str) -> str:
    match tool:
        case "deep":
            return result(number, said("deep", f',"structuredContent":{DEEP}'))
        case "deep_at_the_end":
            return result(number, said("deep", f',"structuredContent":{DEEP}'), last=True)
        case "not_mcp":
            return result(number, '{"content":"not a list"}')
        case "talkative":
            lines = ["Starting up.", '{"level": "info", "message": "a log line"}', "[1]"]
            return "\n".join([*lines, result(number, said("heard"))])
    return result(number, said("well"))


def answer(request: dict[str, Any]) -> str:
    number = request["id"]
    match request["method"]:
        case "initialize":
            version = request["params"]["protocolVersion"]
            about: dict[str, Any] = {
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "raw", "version": "1"},
            }
        case "tools/list":
            hints = {"readOnlyHint": True}
            schema = {"type": "object"}
            about = {
                "tools": [
                    {"name": name, "inputSchema": schema, "annotations": hints} for name in TOOLS
                ]
            }
        case "tools/call":
            return called(number, request["params"]["name"])
        case _:
            error = {"code": -32601, "message": "there is no such method"}
            return json.dumps({"jsonrpc": "2.0", "id": number, "error": error})
    return result(number, json.dumps(about))


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            sys.stdout.write(answer(request) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
