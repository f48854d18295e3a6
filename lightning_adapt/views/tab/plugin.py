"""The plugin: routes, and what goes wrong as a sentence for the tab."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers
from werkzeug.exceptions import BadRequest, HTTPException, MethodNotAllowed, NotFound

from lightning_adapt._text import unknown_name
from lightning_adapt.views.tab import static_files
from lightning_adapt.views.tab.faults import Unknown
from lightning_adapt.views.tab.loader import PLUGIN_NAME

_JSON = "application/json"
_YEAR = 365 * 24 * 3600
_logger = logging.getLogger(__name__)
Answer = Callable[[wrappers.Request], wrappers.Response]


class DynamicsPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """The tab "Optimizer dynamics"."""

    plugin_name = PLUGIN_NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._provider = context.data_provider

    def is_active(self) -> bool:
        """Left to TensorBoard, which looks for our tables in the logs."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Name of the tab, and its module; asked for as soon as somebody opens TensorBoard."""
        static_files.prepare()
        # The page follows a running training by itself: TensorBoard's reload would lose the selection.
        return base_plugin.FrontendMetadata(
            es_module_path=f"/static/{static_files.ENTRY}?v={static_files.version()}",
            tab_name="Optimizer dynamics",
            disable_reload=True,
        )

    def get_plugin_apps(self) -> Mapping[str, Any]:
        """Every route; each answers a fault with a sentence."""
        answers: dict[str, Answer] = {
            "/static/*": self._static,
            "/catalogue": self._catalogue,
            "/runs": self._runs,
            "/rows": self._rows,
            "/steps": self._steps,
            "/column": self._column,
            "/step": self._step,
            "/parameter": self._parameter,
            "/findings": self._findings,
            "/scalars": self._scalars,
            "/scalar": self._scalar,
        }
        return {route: _guarded(answer) for route, answer in answers.items()}

    def _static(self, request: wrappers.Request) -> wrappers.Response:
        name = request.path.rpartition("/static/")[2]
        if name not in static_files.NAMES:
            raise NotFound(unknown_name("file", name, static_files.NAMES))
        same = request.args.get("v") == static_files.version()
        return _respond(
            request,
            static_files.compressed(name),
            static_files.content_type(name),
            content_encoding="gzip",
            expires=_YEAR if same else 0,
        )

    def _catalogue(self, request: wrappers.Request) -> wrappers.Response:
        from lightning_adapt.views.tab.catalogue import catalogue

        return _respond(request, json.dumps(catalogue()), _JSON)

    def _runs(self, request: wrappers.Request) -> wrappers.Response:
        return _respond(request, json.dumps(self._logs(request).runs()), _JSON)

    def _rows(self, request: wrappers.Request) -> wrappers.Response:
        from lightning_adapt.views.tab import answers

        return _respond(request, answers.rows(self._series(request)), _JSON)

    def _steps(self, request: wrappers.Request) -> wrappers.Response:
        from lightning_adapt.views.tab import answers

        return _binary(request, answers.steps(self._series(request)))

    def _column(self, request: wrappers.Request) -> wrappers.Response:
        from lightning_adapt.views.tab import answers

        series = self._series(request)
        name = _argument(request, "statistic")
        if name not in series.columns:
            raise NotFound(unknown_name("statistic", name, series.columns, most=40))
        after = _whole(request, "after") if "after" in request.args else None
        return _binary(request, answers.column(series, name, after))

    def _step(self, request: wrappers.Request) -> wrappers.Response:
        from lightning_adapt.views.tab import answers

        series, number = self._series(request), _whole(request, "step")
        if number not in series.steps:
            nearest = sorted(series.steps, key=lambda step: abs(step - number))[:3]
            raise NotFound(f"`step` must be one that was kept, got {number}; the nearest are {nearest}")
        return _binary(request, answers.step(series, number))

    def _parameter(self, request: wrappers.Request) -> wrappers.Response:
        from lightning_adapt.views.tab import answers

        series, row = self._series(request), _whole(request, "row")
        if not 0 <= row < len(series.rows):
            raise NotFound(f"`row` must be at least 0 and below {len(series.rows)}, got {row}; see /rows")
        return _binary(request, answers.parameter(series, row))

    def _findings(self, request: wrappers.Request) -> wrappers.Response:
        run, optimizer = _argument(request, "run"), _argument(request, "optimizer")
        found = self._logs(request).findings(run, optimizer)
        return _respond(request, json.dumps({"findings": found}), _JSON)

    def _scalars(self, request: wrappers.Request) -> wrappers.Response:
        tags = self._logs(request).scalar_tags(_argument(request, "run"))
        return _respond(request, json.dumps({"tags": tags}), _JSON)

    def _scalar(self, request: wrappers.Request) -> wrappers.Response:
        from lightning_adapt.views.tab import wire

        run, tag = _argument(request, "run"), _argument(request, "tag")
        return _binary(request, wire.pack({}, self._logs(request).scalar(run, tag)))

    def _logs(self, request: wrappers.Request) -> Any:
        # Imported late: a fault in it is a message in the tab, and TensorBoard starts all the same.
        from lightning_adapt.views.tab.data import Logs

        context = plugin_util.context(request.environ)
        return Logs(self._provider, context, plugin_util.experiment_id(request.environ))

    def _series(self, request: wrappers.Request) -> Any:
        return self._logs(request).series(_argument(request, "run"), _argument(request, "optimizer"))


def _guarded(answer: Answer) -> Any:
    def guarded(request: wrappers.Request) -> wrappers.Response:
        try:
            if request.method not in ("GET", "HEAD"):
                raise MethodNotAllowed(["GET", "HEAD"], f"{request.method} is not answered here; use GET")
            return answer(request)
        except HTTPException as error:
            return _sentence(request, error.description or error.name, error.code or 500)
        except errors.PublicError as error:
            return _sentence(request, str(error), error.http_code)
        except Unknown as error:
            return _sentence(request, str(error), 404)
        except Exception as error:
            return _fault(request, error)

    return wrappers.Request.application(guarded)


def _respond(request: wrappers.Request, *content: Any, **more: Any) -> wrappers.Response:
    response: wrappers.Response = http_util.Respond(request, *content, **more)
    return response


def _fault(request: wrappers.Request, error: Exception) -> wrappers.Response:
    _logger.exception("the tab of lightning-adapt could not answer %s", request.path)
    sentence = f"The tab could not read this: {type(error).__name__}: {error}; TensorBoard's log says more."
    return _sentence(request, sentence, 500)


def _sentence(request: wrappers.Request, sentence: str, code: int) -> wrappers.Response:
    clean = sentence.encode("utf-8", "backslashreplace").decode()
    return _respond(request, clean, "text/plain", code=code)


def _binary(request: wrappers.Request, body: bytes) -> wrappers.Response:
    return _respond(request, body, "application/octet-stream")


def _argument(request: wrappers.Request, name: str) -> str:
    if name not in request.args:
        raise BadRequest(f"`{name}` must be given; add {name}=… to the address")
    return request.args[name]


def _whole(request: wrappers.Request, name: str) -> int:
    text = _argument(request, name)
    digits = text[1:] if text.startswith("-") else text
    # Longer numbers are none that a step or a row could have, and slow to read.
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise BadRequest(f"`{name}` must be a whole number, got {text[:40]!r}")
    return int(text)
