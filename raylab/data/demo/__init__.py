"""A miniature multilingual world: nine languages with gold annotation, generated, with no download.

What happens in this world (who does what to what, where, when) is drawn from scenes, so that words are predictable from
their context; each language then says it with its own words, order, agreement and cases. The corpora of two languages
are different draws: they are not translations of each other.

The lexicons hold real words in real scripts and the grammar is real as far as it goes, which is not far: third person
singular, two tenses, a handful of sentence patterns. Names are not declined where a case would be needed.
"""

from raylab.data.demo.writing import DEMO_VERSION, LANGUAGES, write_demo

__all__ = ["DEMO_VERSION", "LANGUAGES", "write_demo"]
