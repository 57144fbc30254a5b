from contextvars import ContextVar

TASK_REQUEST: ContextVar[object]

def request_id() -> str | None: ...
