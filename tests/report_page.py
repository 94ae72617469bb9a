"""A page of HTML as a test reads it."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """What a page holds: its elements, its text, what it refers to; its tags must be balanced."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.open, self.refers, self.ids, self.handlers, self.scripts, self.words = (
            [],
            [],
            [],
            [],
            [],
            {},
            [],
        )
        self.feed(source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.refers += [value for name, value in attrs if name in {"src", "href", "xlink:href", "action", "srcset"}]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            self.scripts[self.open[-1][1]] = self.scripts.get(self.open[-1][1], "") + data
        elif not self.open or self.open[-1][0] != "style":
            self.words.append(data)
