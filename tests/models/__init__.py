"""A model server on loopback, which the real CLIs take for Anthropic, OpenAI or Google.

    with Models() as models:
        ...                      # point a CLI at models.url
        models.requests[-1].last # what it asked

Answers say how many turns of the user the model was shown, so that a conversation that was really
resumed can be told from a new one:

    answer 2 to: and now? | began with: hello

What else shall happen is written into the prompt; only the last text of the user counts:

    <<status 429>>            refuse with that HTTP status, every time
    <<status 429 after 30>>   the same, with a Retry-After header, and a message that says so too
    <<first 2>>               the directives beside it hold for the first 2 requests with this text
    <<wait 5>>                be silent for 5 s before the headers
    <<until /a/file>>         the same, until that file exists
    <<pause 5>>               send the first piece of the text, and the rest 5 s later
    <<cut>>                   send the first piece and close the socket
    <<broken>>                send the first piece and then an error event
    <<size 5000000>>          a text of so many bytes
    <<odd>>                   a text with all that a terminal or a line reader may trip over
    <<empty>>                 no text at all
    <<think>>                 some reasoning first
    <<full>>                  say that the answer ended at its token limit (claude's model)
    <<tool NAME {json}>>      one call of that tool, then a text that has its result in it; of several
                              the first whose tool the CLI has
    <<loop NAME {json}>>      a call of that tool every time

Where the prompt is not for the test to choose, as that of a judge, `models.saying(script)` says what
the answer is.
"""

from tests.models.server import Models, Request

__all__ = ["Models", "Request"]
