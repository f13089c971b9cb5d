"""A stand-in for OpenSearch: it takes documented requests only, keeps what is written in memory, and fails on demand.

Paths, parameters and keys of bodies are those of OpenSearch's published API descriptions (the repository
opensearch-project/opensearch-api-specification) as far as anything here needs them; whatever else comes is refused in
OpenSearch's form of an error. As there, a search sees what was last refreshed, and a deletion by query meets a conflict
where a document is newer than that. It stems nothing, and refreshes nothing by itself.
"""

import base64
import json
import math
import re
import threading
import time
import unicodedata
from collections import Counter, defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

BOOLEAN = {"true", "false"}
NUMBER = re.compile(r"\d+")
ROUTES = {
    # operation: method, path, parameters with what they may be, whether it has a body
    "exists": ("HEAD", "/{index}", {}, False),
    "create": ("PUT", "/{index}", {}, True),
    "mapping": ("GET", "/{index}/_mapping", {}, False),
    "stats": ("GET", "/{index}/_stats/store", {}, False),
    "refresh": ("POST", "/{index}/_refresh", {}, False),
    "bulk": ("POST", "/{index}/_bulk", {}, True),
    "search": (
        "POST",
        "/{index}/_search",
        {"allow_partial_search_results": BOOLEAN, "search_type": {"query_then_fetch", "dfs_query_then_fetch"}},
        True,
    ),
    "delete_by_query": (
        "POST",
        "/{index}/_delete_by_query",
        {"conflicts": {"abort", "proceed"}, "refresh": BOOLEAN},
        True,
    ),
    "index": (
        "PUT",
        "/{index}/_doc/{id}",
        {"op_type": {"index", "create"}, "if_seq_no": NUMBER, "if_primary_term": NUMBER},
        True,
    ),
    "get": ("GET", "/{index}/_doc/{id}", {}, False),
    "delete": ("DELETE", "/{index}/_doc/{id}", {"if_seq_no": NUMBER, "if_primary_term": NUMBER}, False),
}
TOKENIZERS = {"pattern": {"type", "pattern", "flags", "group"}, "standard": {"type", "max_token_length"}}
FILTERS = {
    "length": {"type", "min", "max"},
    "stemmer": {"type", "language"},
    "unique": {"type", "only_on_same_position"},
}
FIELDS = {
    "keyword": {"type", "index", "doc_values", "ignore_above", "store", "norms", "null_value", "normalizer"},
    "text": {"type", "index", "analyzer", "search_analyzer", "store", "norms", "index_options", "similarity"},
}
LANGUAGES = set(
    re.findall(
        r"\w+",
        """
        arabic armenian basque bengali brazilian bulgarian catalan czech danish dutch dutch_kp english light_english
        lovins minimal_english porter2 possessive_english estonian finnish light_finnish light_french french
        minimal_french galician minimal_galician light_german german german2 minimal_german greek hindi hungarian
        light_hungarian indonesian irish light_italian italian sorani latvian lithuanian norwegian light_norwegian
        minimal_norwegian light_nynorsk minimal_nynorsk light_portuguese minimal_portuguese portuguese portuguese_rslp
        romanian russian light_russian light_spanish spanish swedish light_swedish turkish
        """,
    )
)
MOST_HITS, MOST_CLAUSES, LONGEST_TERM, LONGEST_ID = 10_000, 1024, 32_766, 512
ALONE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")


class Refusal(Exception):
    def __init__(self, status, kind, reason):
        super().__init__(reason)
        self.status, self.cause = status, {"type": kind, "reason": reason}


def refuse(reason, kind="illegal_argument_exception", status=400):
    raise Refusal(status, kind, reason)


def check_keys(value, allowed, place):
    if not isinstance(value, dict):
        refuse(f"[{place}] must be an object", "parsing_exception")
    for key in value.keys() - allowed:
        refuse(f"unknown key [{key}] in [{place}]", "parsing_exception")


def words_of(text):
    """Words as the engine's pattern sets them apart, short ones only, in small letters."""
    words, word = [], ""
    for char in text + " ":
        belongs = unicodedata.category(char)[0] in "LMN"
        if word and belongs:
            word += char
            continue
        if word:
            words.append(word)
        word = char if belongs and not ALONE.match(char) else ""
        if belongs and not word:
            words.append(char)
    return [word.lower() for word in words if len(word) <= 40]


class Index:
    """Documents with their sequence numbers, and those of them that the last refresh made visible."""

    def __init__(self, body):
        check_keys(body, {"settings", "mappings", "aliases"}, "create index")
        self.settings, self.mappings = body.get("settings", {}), body.get("mappings", {})
        self._check_settings()
        self._check_mappings()
        self.documents, self.visible = {}, {}
        self.seq_no = -1

    def _check_settings(self):
        check_keys(
            self.settings, {"refresh_interval", "number_of_shards", "number_of_replicas", "analysis"}, "settings"
        )
        analysis = self.settings.get("analysis", {})
        check_keys(analysis, {"analyzer", "tokenizer", "filter"}, "analysis")
        for part, known in (("tokenizer", TOKENIZERS), ("filter", FILTERS)):
            for name, made in analysis.get(part, {}).items():
                if made.get("type") not in known:
                    refuse(f"Unknown {part} type [{made.get('type')}] for [{name}]")
                check_keys(made, known[made["type"]], name)
                if made.get("language", "english") not in LANGUAGES:
                    refuse(f"Invalid stemmer class specified: {made['language']}")
        self.analyzers, self.filters = analysis.get("analyzer", {}), analysis.get("filter", {})
        for name, made in self.analyzers.items():
            check_keys(made, {"type", "tokenizer", "filter"}, name)
            if made["tokenizer"] not in {*TOKENIZERS, *analysis.get("tokenizer", {})}:
                refuse(f"failed to find tokenizer under name [{made['tokenizer']}]")
            for one in set(made["filter"]) - {"lowercase", *analysis.get("filter", {})}:
                refuse(f"Custom Analyzer [{name}] failed to find filter under name [{one}]")

    def _check_mappings(self):
        check_keys(self.mappings, {"dynamic", "_meta", "properties"}, "mappings")
        self.fields = self.mappings.get("properties", {})
        for name, made in self.fields.items():
            if made.get("type") not in FIELDS:
                refuse(
                    f"No handler for type [{made.get('type')}] declared on field [{name}]", "mapper_parsing_exception"
                )
            check_keys(made, FIELDS[made["type"]], name)
            for use in ("analyzer", "search_analyzer"):
                if made.get(use, "standard") not in {"standard", *self.analyzers}:
                    refuse(f"analyzer [{made[use]}] has not been configured", "mapper_parsing_exception")

    def check_document(self, source):
        for name, value in source.items():
            field = self.fields.get(name)
            if field is None:
                kind = "strict_dynamic_mapping_exception"
                refuse(f"mapping set to strict, dynamic introduction of [{name}] within [_doc] is not allowed", kind)
            for one in value if isinstance(value, list) else [value]:
                if not isinstance(one, str):
                    refuse(f"failed to parse field [{name}]", "mapper_parsing_exception")
                is_term = field["type"] == "keyword" and field.get("index", True)
                if is_term and len(one) <= field.get("ignore_above", math.inf) and len(one.encode()) > LONGEST_TERM:
                    refuse(f"Document contains at least one immense term in field={name!r}")

    def write(self, identity, source, op_type="index", if_seq_no=None, if_primary_term=None):
        if not identity or len(identity.encode()) > LONGEST_ID:
            refuse(f"id [{identity}] is missing or too long")
        self.check_document(source)
        self._check_place(identity, if_seq_no, if_primary_term)
        if op_type == "create" and identity in self.documents:
            self._conflict(identity, "document already exists")
        result = "updated" if identity in self.documents else "created"
        self.seq_no += 1
        self.documents[identity] = (self.seq_no, source)
        return self._written(identity, result)

    def delete(self, identity, if_seq_no=None, if_primary_term=None):
        self._check_place(identity, if_seq_no, if_primary_term)
        self.seq_no += 1
        there = self.documents.pop(identity, None)
        return self._written(identity, "deleted" if there else "not_found")

    def _written(self, identity, result):
        return {"_id": identity, "result": result, "_seq_no": self.seq_no, "_primary_term": 1}

    def _check_place(self, identity, if_seq_no, if_primary_term):
        if (if_seq_no is None) != (if_primary_term is None):
            refuse("ifSeqNo is set, but primary term is not", "action_request_validation_exception")
        there = self.documents.get(identity, (-1,))[0]
        if if_seq_no is not None and (int(if_seq_no), int(if_primary_term)) != (there, 1):
            self._conflict(identity, f"required seqNo [{if_seq_no}], current document has seqNo [{there}]")

    def _conflict(self, identity, what):
        refuse(f"[{identity}]: version conflict, {what}", "version_conflict_engine_exception", 409)


class Search:
    """One query over what is visible: BM25 by the words that documents have."""

    def __init__(self, index, query):
        self.index, self.query, self.n_clauses = index, query, 0
        self.statistics = {}

    def hits(self):
        self.score(self.query, {})  # what is wrong in it is so without documents too
        found = [(self.score(self.query, source), identity) for identity, (_, source) in self.index.visible.items()]
        return [(score, identity) for score, identity in found if score is not None]

    def score(self, query, source):
        """The score of a document; None where it does not fit."""
        if not isinstance(query, dict) or len(query) != 1:
            refuse("[query] malformed query, expected one query", "parsing_exception")
        ((kind, inner),) = query.items()
        if kind not in {"bool", "match", "term", "terms"}:
            refuse(f"unknown query [{kind}]", "parsing_exception")
        return getattr(self, f"_{kind}")(inner, source)

    def _bool(self, inner, source):
        check_keys(inner, {"must", "should", "filter", "minimum_should_match"}, "bool")
        scores = {
            kind: [self.score(one, source) for one in inner.get(kind, [])] for kind in ("filter", "must", "should")
        }
        should = [score for score in scores["should"] if score is not None]
        if None in scores["filter"] + scores["must"] or len(should) < inner.get("minimum_should_match", 0):
            return None
        return sum(scores["must"]) + sum(should)

    def _term(self, inner, source):
        ((field, value),) = inner.items()
        check_keys(value, {"value"}, "term")
        return self._terms({field: [value["value"]]}, source)

    def _terms(self, inner, source):
        ((field, values),) = inner.items()
        if self.index.fields.get(field, {}).get("type") != "keyword" or not isinstance(values, list):
            refuse(f"[terms] query on [{field}] needs an array and a keyword field", "parsing_exception")
        there = source.get(field, [])
        return 1.0 if set(there if isinstance(there, list) else [there]) & set(values) else None

    def _match(self, inner, source):
        ((field, value),) = inner.items()
        check_keys(value, {"query", "boost"}, "match")
        if self.index.fields.get(field, {}).get("type") != "text":
            refuse(f"[match] query on [{field}] needs a text field", "query_shard_exception")
        counts, n_found, length = self._statistics_of(field, value["query"])
        words = Counter(words_of(source.get(field, "")))
        score = 0.0
        norm = 1.2 * (0.25 + 0.75 * words.total() / length)
        for word in counts.keys() & words.keys():
            n_times, n_with = counts[word]
            score += (
                n_times * math.log(1 + (n_found - n_with + 0.5) / (n_with + 0.5)) * words[word] / (words[word] + norm)
            )
        return score * value.get("boost", 1.0) if counts.keys() & words.keys() else None

    def _statistics_of(self, field, text):
        """Each word of a query, how often it is said and in how many documents; how many have the field, how long."""
        if (field, text) not in self.statistics:
            analyzer = self.index.fields[field].get("search_analyzer", "standard")
            steps = self.index.analyzers.get(analyzer, {}).get("filter", [])
            is_unique = any(self.index.filters.get(step, {}).get("type") == "unique" for step in steps)
            wanted = Counter(set(words_of(text)) if is_unique else words_of(text))
            self.n_clauses += len(wanted)
            if self.n_clauses > MOST_CLAUSES:
                refuse(f"too_many_clauses: maxClauseCount is set to {MOST_CLAUSES}", "search_phase_execution_exception")
            texts = [words_of(source.get(field, "")) for _, source in self.index.visible.values()]
            texts = [words for words in texts if words]
            counts = {word: (n_times, sum(word in words for words in texts)) for word, n_times in wanted.items()}
            length = sum(map(len, texts)) / len(texts) if texts else 1.0
            self.statistics[field, text] = counts, len(texts), length
        return self.statistics[field, text]


class FakeOpenSearch:
    """The cluster, at `url`; a context manager.

    Faults that are asked for: `faults[operation]` holds what becomes of its next requests, each a status, or "drop" (no
    answer, nothing done), "lose" (done, but no answer), "redirect", "text" (an answer that is none of OpenSearch's);
    None is no fault. `rejects(id)` says whether an item of a bulk gets 429; `first[operation]` is called once before
    that operation's next request; `delays[operation]` are seconds.
    """

    def __init__(self, *, credentials=None, tls=None):
        self.indexes, self.requests, self.headers = {}, [], []
        self.credentials = credentials
        self.faults, self.first, self.delays = defaultdict(deque), {}, {}
        self.rejects = lambda identity: False
        self.bulks = []
        self.guard = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"fake": self}))
        self.server.handle_error = lambda request, address: None
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.host = f"127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def authorized(self, header):
        if self.credentials is None:
            return True
        return header == "Basic " + base64.b64encode(":".join(self.credentials).encode()).decode()

    def route(self, method, path):
        parts = path.split("/")[1:]
        for operation, (wanted, pattern, parameters, has_body) in ROUTES.items():
            pieces = pattern.split("/")[1:]
            fits = len(parts) == len(pieces) and all(
                piece.startswith("{") or piece == part for piece, part in zip(pieces, parts, strict=True)
            )
            if wanted == method and fits and not parts[0].startswith("_"):
                return operation, [unquote(part) for part in parts if not part.startswith("_")], parameters, has_body
        return refuse(f"no handler found for uri [{path}] and method [{method}]")

    def answer(self, operation, places, parameters, body):
        """Carry out a checked request."""
        name = places[0]
        if operation == "exists":
            return (200 if name in self.indexes else 404), {}
        if operation == "create":
            if name in self.indexes:
                refuse(f"index [{name}] already exists", "resource_already_exists_exception")
            self.indexes[name] = Index(body)
            return 200, {"acknowledged": True, "shards_acknowledged": True, "index": name}
        if name not in self.indexes:
            refuse(f"no such index [{name}]", "index_not_found_exception", 404)
        return getattr(self, f"_{operation}")(self.indexes[name], name, places, parameters, body)

    def _mapping(self, index, name, *_):
        return 200, {name: {"mappings": index.mappings}}

    def _stats(self, index, *_):
        size = len(json.dumps(index.documents))
        return 200, {
            "_all": {"primaries": {"store": {"size_in_bytes": size}}, "total": {"store": {"size_in_bytes": size}}}
        }

    def _refresh(self, index, *_):
        index.visible = dict(index.documents)
        return 200, {"_shards": {"total": 1, "successful": 1, "failed": 0}}

    def _index(self, index, name, places, parameters, body):
        done = index.write(places[1], body, **parameters)
        return (201 if done["result"] == "created" else 200), {"_index": name, **done}

    def _get(self, index, name, places, *_):
        if places[1] not in index.documents:
            return 404, {"_index": name, "_id": places[1], "found": False}
        seq_no, source = index.documents[places[1]]
        place = {"_seq_no": seq_no, "_primary_term": 1}
        return 200, {"_index": name, "_id": places[1], "found": True, "_source": source, **place}

    def _delete(self, index, name, places, parameters, _):
        done = index.delete(places[1], **parameters)
        return (404 if done["result"] == "not_found" else 200), {"_index": name, **done}

    def _bulk(self, index, name, places, parameters, body):
        items, lines = [], iter(body)
        for line in lines:
            ((verb, at),) = line.items()
            if verb not in ("index", "create", "delete"):
                refuse(f"Malformed action/metadata line, expected one action but found [{verb}]")
            check_keys(at, {"_id"}, "bulk action")
            source = None if verb == "delete" else next(lines)
            items.append({verb: {"_index": name, "_id": at["_id"], **self._item(index, verb, at["_id"], source)}})
        self.bulks.append(len(items))
        return 200, {
            "took": 1,
            "errors": any("error" in one for item in items for one in item.values()),
            "items": items,
        }

    def _item(self, index, verb, identity, source):
        if self.rejects(identity):
            cause = {"type": "rejected_execution_exception", "reason": "rejected execution of coordinating operation"}
            return {"status": 429, "error": cause}
        try:
            if verb == "delete":
                done = index.delete(identity)
                return {**done, "status": 404 if done["result"] == "not_found" else 200}
            done = index.write(identity, source, op_type=verb)
        except Refusal as refusal:
            return {"status": refusal.status, "error": refusal.cause}
        return {**done, "status": 201 if done["result"] == "created" else 200}

    def _search(self, index, name, places, parameters, body):
        check_keys(body, {"size", "query", "sort", "_source", "search_after", "track_total_hits"}, "search")
        size = body.get("size", 10)
        if size > MOST_HITS:
            refuse(f"Result window is too large, from + size must be less than or equal to: [{MOST_HITS}]")
        hits = Search(index, body["query"]).hits()
        if "sort" in body:
            hits = self._sorted(index, hits, body)
        else:
            hits = [(score, identity, None) for score, identity in sorted(hits, key=lambda hit: -hit[0])]
        shown = [
            {
                "_index": name,
                "_id": identity,
                "_score": score,
                "_source": {key: value for key, value in index.visible[identity][1].items() if key in body["_source"]},
                **({"sort": place} if place else {}),
            }
            for score, identity, place in hits[:size]
        ]
        return 200, {"took": 1, "timed_out": False, "_shards": {"failed": 0}, "hits": {"hits": shown}}

    def _sorted(self, index, hits, body):
        ((field, how),) = body["sort"][0].items()
        made = index.fields.get(field, {})
        if len(body["sort"]) > 1 or made.get("type") != "keyword" or not made.get("doc_values", True):
            refuse(f"sorting by [{body['sort']}] is not supported")
        check_keys(how, {"order"}, "sort")
        keyed = sorted((index.visible[identity][1].get(field, ""), identity) for _, identity in hits)
        after = body.get("search_after")
        return [(None, identity, [key]) for key, identity in keyed if after is None or key > after[0]]

    def _delete_by_query(self, index, name, places, parameters, body):
        check_keys(body, {"query", "max_docs", "slice"}, "delete by query")
        found = [identity for _, identity in Search(index, body["query"]).hits()]
        current = [one for one in found if index.documents.get(one, (-1,))[0] == index.visible[one][0]]
        if len(current) < len(found) and parameters.get("conflicts") != "proceed":
            refuse("version conflict", "version_conflict_engine_exception", 409)
        for identity in current:
            index.delete(identity)
        if parameters.get("refresh") == "true":
            self._refresh(index)
        counts = {"total": len(found), "deleted": len(current), "version_conflicts": len(found) - len(current)}
        return 200, {"took": 1, "timed_out": False, **counts, "failures": []}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True
    fake: FakeOpenSearch

    def do_GET(self):
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        fake, parts = self.fake, urlsplit(self.path)
        fake.headers.append(dict(self.headers))
        if not fake.authorized(self.headers.get("authorization")):
            fake.requests.append("unauthorized")
            return self._send(401, b"Unauthorized", "text/plain; charset=UTF-8")
        try:
            operation, places, known, has_body = fake.route(self.command, parts.path)
            fake.requests.append(operation)
            fake.first.pop(operation, lambda: None)()
            time.sleep(fake.delays.get(operation, 0))
            fault = fake.faults[operation].popleft() if fake.faults[operation] else None
            if fault == "drop" or isinstance(fault, int):
                return self._fail(fault)
            if fault == "redirect":
                return self._send(302, b"", "text/plain", location=f"http://{fake.host}/elsewhere/_mapping")
            if fault == "text":
                return self._send(200, b"It works!", "text/plain")
            parameters = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
            self._check_parameters(parameters, known)
            body = self._body(raw, operation, has_body)
            with fake.guard:
                status, answer = fake.answer(operation, places, parameters, body)
            if fault == "lose":
                return self._fail("drop")
        except Refusal as refusal:
            status = refusal.status
            answer = {"error": {"root_cause": [refusal.cause], **refusal.cause}, "status": status}
        return self._send(status, json.dumps(answer).encode())

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _fail(self, fault):
        if fault == "drop":
            self.close_connection = True
            return None
        cause = {"type": "rejected_execution_exception", "reason": f"no more requests ({fault})"}
        return self._send(fault, json.dumps({"error": {"root_cause": [cause], **cause}, "status": fault}).encode())

    def _check_parameters(self, parameters, known):
        for name, value in parameters.items():
            if name not in known:
                refuse(f"request [{self.path}] contains unrecognized parameter: [{name}]")
            allowed = known[name]
            if not (value in allowed if isinstance(allowed, set) else allowed.fullmatch(value)):
                refuse(f"Failed to parse value [{value}] of parameter [{name}]")

    def _body(self, raw, operation, has_body):
        if bool(raw) != has_body:
            refuse(f"request [{self.command} {self.path}] {'needs' if has_body else 'does not support having'} a body")
        if not has_body:
            return None
        kind = self.headers.get("content-type")
        if kind != ("application/x-ndjson" if operation == "bulk" else "application/json"):
            refuse(f"Content-Type header [{kind}] is not supported", "status_exception", 406)
        if operation == "bulk" and not raw.endswith(b"\n"):
            refuse("The bulk request must be terminated by a newline [\\n]")
        try:
            text = raw.decode()
            return [json.loads(line) for line in text.split("\n")[:-1]] if operation == "bulk" else json.loads(text)
        except ValueError as error:
            return refuse(str(error), "parsing_exception")

    def _send(self, status, body, kind="application/json; charset=UTF-8", **headers):
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass
