"""Generated tokens to the parts of an assistant's answer, one token at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

from ts_entry.chat.events import Content, Event, Reasoning
from ts_entry.chat.reasoning import ReasoningFormat, ReasoningState
from ts_entry.chat.tools import Place, ToolCallState, ToolFormat
from ts_entry.text.detokenizer import Detokenizer, StopMatcher
from ts_entry.text.tokenizer import Tokenizer


class ChatFormat:
    """What the tokens of a model's answers mean; built once for a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.reasoning = ReasoningFormat.of(tokenizer)
        self.tools = ToolFormat.of(tokenizer)
        reasoning = () if self.reasoning is None else (self.reasoning.begin, self.reasoning.end)
        tools = () if self.tools is None else tuple(self.tools.markers)
        self.unwritten = tokenizer.hidden | frozenset(reasoning) | frozenset(tools)
        """Tokens that are no text of an answer: markers and hidden tokens."""


@dataclass(frozen=True, kw_only=True)
class AnswerStart:
    """Where in an answer the prompt ends: in reasoning, or behind the header of a tool call, or at its start."""

    in_reasoning: bool = False
    call_header: str | None = None
    in_tool_section: bool = False
    """The prompt ends with the markers that open a tool call; the model writes its header."""


class AnswerParser:
    """Incremental: any split of the same text into tokens gives the same concatenated parts.

    Stop strings apply to content alone, not to reasoning or to the arguments of tool calls. ``stopped`` tells that one
    was found: then nothing more comes out. Without ``tools`` the markers of tool calls mean nothing.
    """

    def __init__(
        self, chat_format: ChatFormat, *, start: AnswerStart, stops: Sequence[str] = (), tools: bool = True
    ) -> None:
        self._unwritten = chat_format.unwritten
        self._detokenizer = Detokenizer(chat_format.tokenizer)
        self._stop = StopMatcher(stops) if stops else None
        self._reasoning = ReasoningState(chat_format.reasoning, inside=start.in_reasoning)
        self._tools = ToolCallState(chat_format.tools if tools else None)
        self._start = start
        self._format = chat_format

    @property
    def stopped(self) -> bool:
        """A stop string was found."""
        return self._stop is not None and self._stop.matched is not None

    @property
    def calls(self) -> int:
        """Tool calls begun so far."""
        return self._tools.calls

    @property
    def reasoning_tokens(self) -> int:
        """Tokens fed while in reasoning."""
        return self._reasoning.tokens

    def begin(self) -> Sequence[Event]:
        """What the answer starts with before any token: a forced call of a named function."""
        if self._start.call_header is not None:
            return self._tools.begin(self._start.call_header)
        if self._start.in_tool_section and self._format.tools is not None:
            self._tools.marker(self._format.tools.section_begin)
            self._tools.marker(self._format.tools.call_begin)
        return ()

    def feed(self, token: int) -> Sequence[Event]:
        """What this token adds."""
        if self._reasoning.inside:
            self._reasoning.tokens += 1
        if token in self._unwritten:
            return self._mark(token)
        text = self._detokenizer.feed(token)
        return self._text(text) if text else ()

    def finish(self, *, complete: bool = True) -> Sequence[Event]:
        """What was held back, now that no token follows. ``complete`` is false when the answer was cut off."""
        events = [*self._text(self._detokenizer.flush()), *self._release()]
        return [*events, *self._tools.close()] if complete else events

    def _mark(self, token: int) -> Sequence[Event]:
        is_tool = self._tools.is_marker(token)
        is_reasoning = not is_tool and self._format.reasoning is not None and token in _both(self._format.reasoning)
        if self.stopped or not (is_tool or is_reasoning):
            return ()
        events = [*self._text(self._detokenizer.flush()), *self._release()]
        if is_tool:
            self._reasoning.inside = False
            events += self._tools.marker(token)
        elif self._tools.place is Place.OUTSIDE:
            self._reasoning.take(token)
        return events

    def _text(self, text: str) -> Sequence[Event]:
        if not text:
            return ()
        if self._tools.place is not Place.OUTSIDE:
            return self._tools.text(text)
        if self._reasoning.inside:
            return (Reasoning(text),)
        if self._stop is not None:
            text = self._stop.feed(text)
            if not text:
                return ()
        return (Content(text),)

    def _release(self) -> Sequence[Event]:
        """Text that was held as the possible start of a stop string: the content ends here."""
        text = self._stop.flush() if self._stop is not None else ""
        return (Content(text),) if text else ()


def _both(markers: ReasoningFormat) -> tuple[int, int]:
    return markers.begin, markers.end
