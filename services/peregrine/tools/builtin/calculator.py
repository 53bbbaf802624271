"""The tool `calculator`."""

from peregrine.tools.builtin import arithmetic
from peregrine.tools.definition import (
    Arguments,
    ChangeClass,
    Effect,
    Output,
    Scope,
    ToolContext,
    ToolFailure,
    tool,
)


@tool(
    name="calculator",
    description=(
        "Works out one arithmetic expression, exactly where that is possible. Use it for every "
        "calculation instead of doing it in your head. Knows + - * / // % (remainder) ^ (power) ! "
        "(factorial), brackets, percentages (15% of 240; 10% alone is 0.1), the constants pi, e, "
        "tau, and the functions abs, ceil, cos, exp, factorial, floor, gcd, lcm, ln, log(x, base), "
        "log10, log2, max, mean, min, percent(part, whole) (percent(15, 240) is 36), "
        "round(x, places), sin, sqrt, sum, tan (angles in radians). Write numbers as 1234.5, "
        "without thousands separators, units or currency signs."
    ),
    parameters={
        "expression": {
            "type": "string",
            "description": "for example 25 * 17, or round(sqrt(2) * 100, 2)",
            "minLength": 1,
            "maxLength": arithmetic.MAX_CHARACTERS,
        }
    },
    effect=Effect.PURE,
    change=ChangeClass.PURE,
    scope=Scope.TENANT,
    cacheable=False,
    timeout=5.0,
)
async def calculator(arguments: Arguments, context: ToolContext) -> Output:
    # On the loop: within the parser's bounds it is done before others would notice.
    try:
        value = arithmetic.evaluate(arguments["expression"])
    except arithmetic.ArithmeticFault as fault:
        raise ToolFailure(str(fault), reason="EXPRESSION_INVALID") from None
    text, exact = value.written()
    return Output(text, {"result": text, "exact": exact})
