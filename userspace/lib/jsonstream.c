// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Two machines: the lexer turns characters into tokens, the parser builds the value while the
 * tokens come. The first error of the grammar is kept, and told when the brackets balance
 * (QEMU's moment); a lexical error is told at once and drops what was begun.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "jsonescape.h"
#include "jsonstream.h"
#include "util.h"

/* What json-c needs for each, about. */
#define COST_OBJECT 1024u
#define COST_ARRAY  384u
#define COST_SCALAR 160u

enum lex {
	LEX_START,
	LEX_DQ, /* inside "..." */
	LEX_DQ_ESC,
	LEX_SQ, /* inside '...' */
	LEX_SQ_ESC,
	LEX_MINUS,
	LEX_ZERO,
	LEX_DIGITS,
	LEX_POINT, /* behind "1." */
	LEX_FRACTION,
	LEX_E, /* behind "1e" */
	LEX_E_SIGN,
	LEX_EXPONENT,
	LEX_WORD,
	LEX_RECOVERY,
};

enum token {
	TOK_PUNCT, /* the character itself: { } [ ] : , */
	TOK_INT,
	TOK_FLOAT,
	TOK_WORD,
	TOK_STRING,
};

/* What the innermost open container waits for. */
enum want {
	WANT_KEY_OR_END, /* behind '{' */
	WANT_KEY,	 /* behind ',' */
	WANT_COLON,
	WANT_MEMBER, /* behind ':' */
	WANT_MEMBER_SEP,
	WANT_ELEMENT_OR_END, /* behind '[' */
	WANT_ELEMENT,	     /* behind ',' */
	WANT_ELEMENT_SEP,
};

struct frame {
	struct json *container;
	char *key;
	enum want want;
};

struct json_stream {
	struct json_limits limits;
	enum lex lex;
	struct strbuf tok;
	/* of the top-level value in hand */
	size_t bytes, tokens;
	size_t cost, last_cost; /* in memory, about; last: of the one before it */
	int64_t braces, brackets;
	struct frame *stack;
	size_t depth, stack_size;
	struct json *result;
	bool failed;
	bool told; /* the error went out already: skip in silence */
	struct err error;
};

struct json_stream *json_stream_new(const struct json_limits *limits)
{
	static const struct json_limits standard = JSON_LIMITS_DEFAULT;
	struct json_stream *s = xcalloc(1, sizeof(*s));

	s->limits = limits ? *limits : standard;
	return s;
}

static void drop_partial(struct json_stream *s)
{
	while (s->depth) {
		struct frame *f = &s->stack[--s->depth];

		/* Inner containers are attached to their parent only when complete. */
		json_unref(f->container);
		free(f->key);
	}
	json_unref(s->result);
	s->result = NULL;
	s->cost = 0;
}

/* Ready for the next top-level value. */
static void reset(struct json_stream *s)
{
	drop_partial(s);
	strbuf_reset(&s->tok);
	s->bytes = s->tokens = 0;
	s->braces = s->brackets = 0;
	s->failed = s->told = false;
	err_clear(&s->error);
}

void json_stream_free(struct json_stream *s)
{
	if (!s)
		return;
	reset(s);
	strbuf_done(&s->tok);
	free(s->stack);
	free(s);
}

bool json_stream_busy(const struct json_stream *s)
{
	return s->braces > 0 || s->brackets > 0 || (s->lex != LEX_START && s->lex != LEX_RECOVERY);
}

size_t json_stream_cost(const struct json_stream *s)
{
	return json_stream_busy(s) ? s->cost + s->tok.size : s->last_cost;
}

/* --- the parser --- */

static void fail(struct json_stream *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void fail(struct json_stream *s, const char *fmt, ...)
{
	char msg[ERR_MSG_MAX];
	va_list ap;

	if (s->failed)
		return;
	s->failed = true;
	drop_partial(s);
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	err_set(&s->error, EINVAL, "JSON parse error, %.*s", ERR_MSG_MAX - 32, msg);
}

static void push(struct json_stream *s, struct json *container, enum want want)
{
	if (s->depth == s->stack_size) {
		s->stack_size = s->stack_size ? s->stack_size * 2 : 16;
		s->stack = xreallocarray(s->stack, s->stack_size, sizeof(*s->stack));
	}
	s->stack[s->depth++] = (struct frame){ container, NULL, want };
	s->cost += json_is(container, JSON_OBJ) ? COST_OBJECT : COST_ARRAY;
}

/* A complete value arrived, for the innermost container or as the result. */
static void put_value(struct json_stream *s, struct json *val)
{
	struct frame *f = s->depth ? &s->stack[s->depth - 1] : NULL;

	if (!f) {
		s->result = val;
	} else if (json_is(f->container, JSON_ARR)) {
		json_append(f->container, val);
		f->want = WANT_ELEMENT_SEP;
	} else if (json_get(f->container, f->key)) {
		json_unref(val);
		fail(s, "duplicate key");
	} else {
		json_add(f->container, f->key, val);
		free(f->key);
		f->key = NULL;
		f->want = WANT_MEMBER_SEP;
	}
}

static void pop(struct json_stream *s)
{
	put_value(s, s->stack[--s->depth].container);
}

/* The string token's text without quotes and escapes, in @out. False: the sentence is set. */
static bool decode_string(struct json_stream *s, struct strbuf *out)
{
	struct err e = ERR_INIT;

	if (json_unescape(s->tok.buf + 1, s->tok.buf + s->tok.len - 1, out, &e) == 0)
		return true;
	fail(s, "%s", e.msg);
	return false;
}

static struct json *number(struct json_stream *s, bool integer)
{
	const char *text = strbuf_str(&s->tok);
	uint64_t u;
	int64_t i;
	double d;

	if (integer && parse_u64(text, &u) == 0)
		return json_u64(u);
	if (integer && parse_s64(text, &i) == 0)
		return json_int(i);
	d = strtod(text, NULL);
	if (!isfinite(d)) {
		fail(s, "number '%.40s' is out of range", text);
		return NULL;
	}
	return json_double(d);
}

static struct json *word(struct json_stream *s)
{
	const char *text = strbuf_str(&s->tok);

	if (streq(text, "true"))
		return json_bool(true);
	if (streq(text, "false"))
		return json_bool(false);
	if (streq(text, "null"))
		return json_null();
	fail(s, "invalid keyword '%s'", text);
	return NULL;
}

/* The value of a token that is no punctuation; NULL: the sentence is set. */
static struct json *scalar(struct json_stream *s, enum token type)
{
	_cleanup_strbuf_ struct strbuf text = STRBUF_INIT;

	s->cost += COST_SCALAR + s->tok.len;
	if (type == TOK_INT || type == TOK_FLOAT)
		return number(s, type == TOK_INT);
	if (type == TOK_WORD)
		return word(s);
	if (!decode_string(s, &text))
		return NULL;
	return json_strn(strbuf_str(&text), text.len);
}

/* A token where a value may begin. */
static void parse_value(struct json_stream *s, enum token type, char punct)
{
	struct json *val;

	if (type != TOK_PUNCT) {
		val = scalar(s, type);
		if (val)
			put_value(s, val);
	} else if (punct == '{') {
		push(s, json_obj(), WANT_KEY_OR_END);
	} else if (punct == '[') {
		push(s, json_arr(), WANT_ELEMENT_OR_END);
	} else {
		fail(s, "expecting value");
	}
}

static void parse_key(struct json_stream *s, enum token type, char punct)
{
	_cleanup_strbuf_ struct strbuf text = STRBUF_INIT;

	if (type == TOK_PUNCT && punct != '{' && punct != '[') {
		fail(s, "expecting value");
	} else if (type != TOK_STRING) {
		fail(s, "key is not a string in object");
	} else if (decode_string(s, &text)) {
		s->cost += COST_SCALAR + text.len;
		s->stack[s->depth - 1].key = strbuf_detach(&text);
		s->stack[s->depth - 1].want = WANT_COLON;
	}
}

static void parse_separator(struct json_stream *s, enum token type, char punct, bool in_object)
{
	if (type == TOK_PUNCT && punct == (in_object ? '}' : ']'))
		pop(s);
	else if (type == TOK_PUNCT && punct == ',')
		s->stack[s->depth - 1].want = in_object ? WANT_KEY : WANT_ELEMENT;
	else
		fail(s, "expected separator in %s", in_object ? "dict" : "list");
}

static void parse_token(struct json_stream *s, enum token type, char punct)
{
	struct frame *f = s->depth ? &s->stack[s->depth - 1] : NULL;

	if (!f) {
		parse_value(s, type, punct);
		return;
	}
	switch (f->want) {
	case WANT_KEY_OR_END:
		if (type == TOK_PUNCT && punct == '}') {
			pop(s);
			return;
		}
		parse_key(s, type, punct);
		return;
	case WANT_KEY:
		parse_key(s, type, punct);
		return;
	case WANT_COLON:
		if (type == TOK_PUNCT && punct == ':')
			f->want = WANT_MEMBER;
		else
			fail(s, "missing : in object pair");
		return;
	case WANT_ELEMENT_OR_END:
		if (type == TOK_PUNCT && punct == ']') {
			pop(s);
			return;
		}
		parse_value(s, type, punct);
		return;
	case WANT_MEMBER:
	case WANT_ELEMENT:
		parse_value(s, type, punct);
		return;
	case WANT_MEMBER_SEP:
	case WANT_ELEMENT_SEP:
		parse_separator(s, type, punct, f->want == WANT_MEMBER_SEP);
		return;
	}
}

/* --- limits and balance --- */

/* A limit is exceeded: say so at once, skip the rest up to its balanced end. */
static int overflow(struct json_stream *s, const char *what, struct err *e)
{
	s->failed = s->told = true;
	drop_partial(s);
	strbuf_reset(&s->tok);
	return err_set(e, EINVAL, "JSON %s limit exceeded", what);
}

static void count_brackets(struct json_stream *s, char punct)
{
	s->braces += (punct == '{') - (punct == '}');
	s->brackets += (punct == '[') - (punct == ']');
}

/* One token, its text in s->tok. Results as json_stream_feed(). */
static int take_token(struct json_stream *s, enum token type, char punct, struct json **ret,
		      struct err *e)
{
	int r = 0;

	if (type == TOK_PUNCT)
		count_brackets(s, punct);
	s->tokens++;
	if (!s->told && s->braces + s->brackets > (int64_t)s->limits.depth)
		r = overflow(s, "nesting depth", e);
	if (!s->told && s->tokens > s->limits.tokens)
		r = overflow(s, "token count", e);
	if (!s->failed)
		parse_token(s, type, punct);
	strbuf_reset(&s->tok);
	if ((s->braces > 0 || s->brackets > 0) && s->braces >= 0 && s->brackets >= 0)
		return r;
	if (!s->failed) {
		*ret = s->result;
		s->result = NULL;
		s->last_cost = s->cost;
		r = 1;
	} else if (!s->told) {
		r = err_set(e, EINVAL, "%s", s->error.msg);
	}
	reset(s);
	return r;
}

/* --- the lexer --- */

static bool is_digit(unsigned char c)
{
	return c >= '0' && c <= '9';
}

static bool is_punct(unsigned char c)
{
	return c && strchr("{}[]:,", c);
}

static bool is_blank(unsigned char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Where a character leads inside a token. */
enum { STEP_ERROR = -1, STEP_END_INT = -2, STEP_END_FLOAT = -3, STEP_END_WORD = -4 };

static int step_string(enum lex lex, unsigned char c)
{
	unsigned char quote = lex == LEX_DQ || lex == LEX_DQ_ESC ? '"' : '\'';
	enum lex plain = quote == '"' ? LEX_DQ : LEX_SQ;

	if (c < ' ' || c >= 0xfe)
		return STEP_ERROR;
	if (lex != plain)
		return plain;
	if (c == '\\')
		return quote == '"' ? LEX_DQ_ESC : LEX_SQ_ESC;
	return c == quote ? LEX_START : plain;
}

static int step_number(enum lex lex, unsigned char c)
{
	switch (lex) {
	case LEX_MINUS:
		return c == '0' ? LEX_ZERO : is_digit(c) ? LEX_DIGITS : STEP_ERROR;
	case LEX_ZERO:
	case LEX_DIGITS:
		if (is_digit(c))
			return lex == LEX_DIGITS ? LEX_DIGITS : STEP_ERROR;
		return c == '.' ? LEX_POINT : (c | 32) == 'e' ? LEX_E : STEP_END_INT;
	case LEX_POINT:
		return is_digit(c) ? LEX_FRACTION : STEP_ERROR;
	case LEX_FRACTION:
		return is_digit(c) ? LEX_FRACTION : (c | 32) == 'e' ? LEX_E : STEP_END_FLOAT;
	case LEX_E:
		if (c == '+' || c == '-')
			return LEX_E_SIGN;
		return is_digit(c) ? LEX_EXPONENT : STEP_ERROR;
	case LEX_E_SIGN:
		return is_digit(c) ? LEX_EXPONENT : STEP_ERROR;
	default:
		return is_digit(c) ? LEX_EXPONENT : STEP_END_FLOAT;
	}
}

/* The state that @c leads to from between tokens (not blank, not punctuation). */
static int step_start(unsigned char c)
{
	if (c == '"')
		return LEX_DQ;
	if (c == '\'')
		return LEX_SQ;
	if (c == '-')
		return LEX_MINUS;
	if (is_digit(c))
		return c == '0' ? LEX_ZERO : LEX_DIGITS;
	return c >= 'a' && c <= 'z' ? LEX_WORD : STEP_ERROR;
}

static int stray(struct json_stream *s, unsigned char c, struct err *e)
{
	bool told = s->told;
	int r = 0;

	strbuf_addc(&s->tok, (char)c);
	if (!told)
		r = err_set(e, EINVAL, "JSON parse error, stray '%s'", strbuf_str(&s->tok));
	reset(s);
	s->lex = LEX_RECOVERY;
	return r;
}

/*
 * True: @c ends the garbage. Punctuation begins something new; a control character or one of
 * the bytes that UTF-8 never has is dropped.
 */
static bool recovered(unsigned char c, bool *again)
{
	*again = is_punct(c);
	return *again || (c < ' ' && c != '\t') || c >= 0xfe;
}

/* One character; *@again: it was only looked at, feed it once more. */
static int feed_char(struct json_stream *s, unsigned char c, bool *again, struct json **ret,
		     struct err *e)
{
	enum lex lex = s->lex;
	int next;

	*again = false;
	if (lex == LEX_RECOVERY) {
		if (recovered(c, again))
			s->lex = LEX_START;
		return 0;
	}
	if (lex == LEX_START) {
		if (is_blank(c))
			return 0;
		if (is_punct(c))
			return take_token(s, TOK_PUNCT, (char)c, ret, e);
		next = step_start(c);
	} else if (lex == LEX_WORD) {
		next = c >= 'a' && c <= 'z' ? LEX_WORD : STEP_END_WORD;
	} else if (lex <= LEX_SQ_ESC) {
		next = step_string(lex, c);
	} else {
		next = step_number(lex, c);
	}
	if (next == STEP_ERROR)
		return stray(s, c, e);
	if (next < 0) {
		*again = true;
		s->lex = LEX_START;
		return take_token(s,
				  next == STEP_END_INT	   ? TOK_INT
				  : next == STEP_END_FLOAT ? TOK_FLOAT
							   : TOK_WORD,
				  0, ret, e);
	}
	if (!s->told)
		strbuf_addc(&s->tok, (char)c);
	s->lex = next;
	return next == LEX_START ? take_token(s, TOK_STRING, 0, ret, e) : 0;
}

int json_stream_feed(struct json_stream *s, const char *buf, size_t len, size_t *used,
		     struct json **ret, struct err *e)
{
	size_t i = 0;
	int r = 0;

	while (i < len && r == 0) {
		bool again;

		if (!s->told && json_stream_busy(s) && ++s->bytes > s->limits.bytes) {
			r = overflow(s, "message size", e);
			break;
		}
		r = feed_char(s, (unsigned char)buf[i], &again, ret, e);
		if (!again)
			i++;
	}
	*used = i;
	return r;
}

int json_stream_end(struct json_stream *s, struct json **ret, struct err *e)
{
	size_t used;
	char nl = '\n';

	/* Inside a string a newline would be an error of its own: nothing is complete. */
	if (s->lex >= LEX_DQ && s->lex <= LEX_SQ_ESC)
		return 0;
	return json_stream_feed(s, &nl, 1, &used, ret, e);
}

struct json *json_parse(const char *text, size_t len, struct err *e)
{
	struct json_stream *s = json_stream_new(NULL);
	struct json *val = NULL;
	size_t used = 0;
	int r;

	r = json_stream_feed(s, text, len, &used, &val, e);
	if (r == 0)
		r = json_stream_end(s, &val, e);
	if (r == 0)
		err_set(e, EINVAL,
			json_stream_busy(s) ? "JSON parse error, unexpected end"
					    : "Expecting a JSON value");
	if (r > 0) {
		for (text += used, len -= used; len && is_blank((unsigned char)*text); len--)
			text++;
		if (len) {
			err_set(e, EINVAL, "JSON parse error, text behind the value");
			json_unref(val);
			val = NULL;
		}
	}
	json_stream_free(s);
	return val;
}
