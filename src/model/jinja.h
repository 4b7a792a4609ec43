/* jinja.h - chat templates: a sandboxed, bounded interpreter of the Jinja language.
 *
 * Checkpoints bring their chat template as a program. It is run as Hugging Face transformers runs
 * it: Jinja 3.1 with trim_blocks and lstrip_blocks, break and continue, {% generation %}, `tojson`
 * as json.dumps(ensure_ascii=False), the functions raise_exception, strftime_now, namespace, range,
 * dict, joiner and cycler. include, import, extends and block are refused by name.
 *
 *     mlxd_jinja *t;
 *     err = mlxd_jinja_open(&t, source, &why);
 *     err = mlxd_jinja_begin(&r, t, &params, &why);
 *     mlxd_jinja_set_json(r, "messages", doc_root);
 *     mlxd_jinja_set_bool(r, "add_generation_prompt", true);
 *     err = mlxd_jinja_render(r, &text, &spans, &n_spans, &why);
 *     mlxd_jinja_end(r);
 *
 * What a template can do: compute with values, and print. There is no I/O, no clock but the one
 * that the caller gives, no access to anything outside of the values set. Everything is bounded:
 * length and nesting of the source, steps, depth of calls, memory and output (limits.h); beyond a
 * bound the render ends with an error.
 *
 * Trust. Every string knows which of its bytes the template wrote itself ("trusted") and which came
 * in with a value. The marks survive joining, slicing, filters and tojson. The rendered text comes
 * with the list of its trusted spans: only there may text be read as control tokens. Numbers,
 * booleans and None are written by the interpreter and trusted; the punctuation that tojson and
 * printing of lists put around values is not.
 *
 * Differences from Python, all of them towards an error or towards what other runtimes do:
 *   - integers have 64 bits: an overflow is an error, and one in JSON that does not fit is a float;
 *   - list.append and list.pop work (transformers' sandbox refuses them; Kimi K2 needs them);
 *   - Markup, which `safe` gives, is known to `+` and `escape`, not to methods and other filters;
 *   - filters that make no sense in a prompt (urlize, xmlattr, random, ...) are unknown.
 *
 * Errors: INVALID when the template called raise_exception, with its message: the conversation is
 * one that the template does not accept. DATA for a template that is malformed or fails, with line,
 * column and the line of the source:
 *     chat template, line 3, column 8: 'x' is undefined: {{ x.y }}
 * UNSUPPORTED for a statement that is refused; RANGE for a bound; NOMEM.
 *
 * Files: jinja_lex (source to tokens), jinja_parse, jinja_parse_expr (to a tree), jinja_value,
 * jinja_text, jinja_dict (values), jinja_print (values to text), jinja_eval, jinja_op
 * (expressions), jinja_exec (statements), jinja_call, jinja_filter, jinja_filter_seq, jinja_test,
 * jinja_method (what can be called), jinja_time.
 *
 * Thread: a template is immutable; a render belongs to one thread.
 */
#ifndef MLXD_MODEL_JINJA_H
#define MLXD_MODEL_JINJA_H

#include "base/mem.h"
#include "format/json.h"
#include "model/tokenizer.h"

typedef struct mlxd_jinja mlxd_jinja;
typedef struct mlxd_jinja_run mlxd_jinja_run;

/* Parses `source` (UTF-8, checked; copied). */
mlxd_err mlxd_jinja_open(mlxd_jinja **out, mlxd_slice source, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_jinja_close(mlxd_jinja *t);
/* The source as it was given; lent. */
mlxd_slice mlxd_jinja_source(const mlxd_jinja *t);
/* Does the template mention this name (of a variable) anywhere? */
bool mlxd_jinja_mentions(const mlxd_jinja *t, const char *name);

/* One render. `t` must outlive it. `now_s`: seconds since 1970, for strftime_now, shown in UTC. */
mlxd_err mlxd_jinja_begin(mlxd_jinja_run **out, const mlxd_jinja *t, int64_t now_s,
                          mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_jinja_end(mlxd_jinja_run *r);

/* Variables. Names are lent and must live until the end; so must JSON documents. A failure is kept
 * and returned by render. Strings of JSON values are not trusted. */
void mlxd_jinja_set_json(mlxd_jinja_run *r, const char *name, const mlxd_json *v);
void mlxd_jinja_set_str(mlxd_jinja_run *r, const char *name, mlxd_slice text, bool trusted);
void mlxd_jinja_set_bool(mlxd_jinja_run *r, const char *name, bool v);
void mlxd_jinja_set_none(mlxd_jinja_run *r, const char *name);
bool mlxd_jinja_has(const mlxd_jinja_run *r, const char *name);

/* Text and its trusted spans (ascending, not empty, not touching): lent until end. Once per run. */
mlxd_err mlxd_jinja_render(mlxd_jinja_run *r, mlxd_slice *text, const mlxd_text_range **trusted,
                           size_t *n_trusted, mlxd_why *why) MLXD_MUST_CHECK;

#endif
