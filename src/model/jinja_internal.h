/* jinja_internal.h - shared by the files of the interpreter (jinja_*.c): values, the tree, the
 * state of one render. Types are written without prefix here, since only those files see them, and
 * chat_values.c, which makes messages.
 *
 * Errors are sticky: the first one is kept in the run (mlxd_jinja_fail), every function may be
 * called after it and does nothing of consequence, and loops ask mlxd_jinja_step, which is false
 * from then on. A value that could not be made is undefined.
 */
#ifndef MLXD_MODEL_JINJA_INTERNAL_H
#define MLXD_MODEL_JINJA_INTERNAL_H

#include "base/limits.h"
#include "model/jinja.h"

typedef mlxd_jinja_run run;
typedef struct node node;

/* ---- values ---- */

typedef enum value_kind {
    K_ABSENT, /* an argument that was not given; never seen by templates */
    K_UNDEFINED,
    K_NONE,
    K_BOOL,
    K_INT,
    K_FLOAT,
    K_STRING,
    K_LIST,
    K_TUPLE,
    K_RANGE,    /* what range() gives */
    K_VIEW,     /* keys(), values(), items() of a dict */
    K_ITERATOR, /* what generators of Python become: can be walked once, has no length */
    K_DICT,
    K_NAMESPACE,
    K_LOOP,
    K_MACRO,
    K_BUILTIN, /* a global function */
    K_METHOD,  /* a method with its object */
    K_CYCLER,
    K_JOINER,
} value_kind;

/* Immutable. `chars` counts code points. The trusted spans are ascending and do not touch. */
typedef struct string {
    const uint8_t *data;
    size_t len, chars;
    const mlxd_text_range *trusted;
    size_t n_trusted;
    mlxd_text_range whole; /* what `trusted` points to when there is one span */
    bool safe;             /* went through the filter `safe` */
} string;

typedef struct value {
    value_kind kind;
    union {
        bool b;
        int64_t i;
        double f;
        const string *s;
        struct seq *seq;
        struct dict *dict;
        struct loop *loop;
        const struct macro *macro;
        const struct builtin *builtin;
        const struct bound *method;
        struct counter *counter;
        const struct absent *absent; /* K_UNDEFINED: what is missing; NULL: not known */
    } as;
} value;

typedef struct absent {
    const string *name; /* NULL: element `index` */
    int64_t index;
    value owner; /* K_ABSENT: a variable */
} absent;

/* LIST, TUPLE, RANGE, VIEW, ITERATOR. Only a LIST changes (append, pop). */
typedef struct seq {
    value *items;
    size_t count, cap;
    bool consumed;             /* ITERATOR: was walked */
    const char *title;         /* VIEW, ITERATOR: how it prints */
    int64_t start, stop, step; /* RANGE: how it prints */
} seq;

typedef struct entry {
    value key, value;
    uint64_t hash;
} entry;

/* Insertion order; also the attributes of a namespace. */
typedef struct dict {
    entry *entries;
    size_t count, cap;
    uint32_t *index; /* entry + 1 by hash, open addressing; NULL while small */
    size_t index_cap;
} dict;

typedef struct counter { /* cycler, joiner */
    seq *items;
    size_t at;
    value separator;
} counter;

typedef struct loop {
    seq *items;
    size_t at;
    value changed; /* arguments of the last loop.changed(); K_ABSENT: none */
} loop;

/* Arguments of a call, evaluated. */
typedef struct args {
    value *pos;
    size_t n;
    const string **names;
    value *kw;
    size_t n_kw;
} args;

#define ARGS_MAX 8 /* parameters of a built-in function */

/* One row for each filter, test, method and global function. With params[0] "*" the function reads
 * `a` itself; otherwise v[i] is the argument for params[i], or K_ABSENT. call NULL: refused. */
typedef struct builtin {
    const char *name;
    value (*call)(run *r, value self, const value *v, const args *a);
    size_t required;
    const char *params[ARGS_MAX];
} builtin;

typedef struct bound {
    value self;
    const builtin *builtin;
} bound;

typedef struct scope {
    struct scope *parent;
    struct var *vars;
    size_t macros; /* made by the run when the scope was entered */
} scope;

typedef struct var {
    struct var *next;
    const string *name;
    value value;
} var;

typedef struct macro {
    const node *def; /* N_MACRO or N_CALLBLOCK */
    scope *scope;    /* where it was defined */
} macro;

/* ---- the tree ---- */

typedef enum node_kind {
    /* expressions */
    N_CONST,
    N_NAME,
    N_LIST, /* list: items */
    N_TUPLE,
    N_DICT,   /* list: key, value, key, value ... */
    N_ATTR,   /* a.name */
    N_ITEM,   /* a[b] */
    N_SLICE,  /* a[b:c:d]; each may be NULL */
    N_CALL,   /* a(list) */
    N_FILTER, /* a | name(list) */
    N_TEST,   /* a is name(list) */
    N_NOT,    /* a */
    N_NEGATE, /* a */
    N_PLUS,   /* a */
    N_BINARY, /* a op b */
    N_AND,
    N_OR,
    N_COMPARE, /* a, list: N_PARAM with op and a */
    N_CONCAT,  /* list */
    N_COND,    /* b if a else c (c may be NULL) */
    N_BLOCK,   /* the text of the block that a filter is applied to */
    /* statements */
    N_TEXT,
    N_OUTPUT,      /* a */
    N_IF,          /* a: list else more */
    N_FOR,         /* for a in b if c: list else more */
    N_SET,         /* a = b */
    N_SETBLOCK,    /* a = list, through b */
    N_MACRO,       /* name, params: list of N_PARAM in b; body: list */
    N_CALLBLOCK,   /* call a, params b, body list */
    N_FILTERBLOCK, /* a over list */
    N_WITH,        /* list of N_SET in b; body list */
    N_BREAK,
    N_CONTINUE,
    N_DO,          /* a */
    N_PARAM,       /* name, default a or NULL */
    N_ASSIGN_ATTR, /* as target: name.attr (b: N_CONST attr) */
} node_kind;

/* Operators: a row of binary ones, then of comparisons. */
typedef enum op_code {
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOORDIV,
    OP_MOD,
    OP_POW,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN,
} op_code;

struct node {
    node_kind kind;
    op_code op;             /* N_BINARY; N_PARAM of N_COMPARE */
    bool negated;           /* N_TEST: is not */
    uint32_t at;            /* offset in the source */
    const string *name;     /* of a variable, attribute, filter, macro; of a keyword argument */
    const builtin *builtin; /* N_FILTER, N_TEST: NULL when there is none of that name */
    value constant;         /* N_CONST, N_TEXT */
    node *a, *b, *c, *d;
    node *list, *more; /* first of a chain */
    node *next;        /* in the parent's chain */
};

struct mlxd_jinja {
    mlxd_arena *arena;
    mlxd_slice original; /* as given */
    mlxd_slice source;   /* line ends normalised; what `at` counts in */
    node *body;
};

/* ---- one render ---- */

typedef struct builder {
    run *r;
    uint8_t *data;
    size_t len, cap;
    mlxd_text_range *spans;
    size_t n_spans, cap_spans;
} builder;

struct mlxd_jinja_run {
    const mlxd_jinja *t;
    mlxd_arena *arena;
    size_t bytes; /* taken from it */
    uint64_t steps;
    unsigned depth;
    const node *here; /* what is evaluated, for errors */
    mlxd_err err;
    mlxd_why why;
    dict *globals; /* the variables that were set */
    scope *scope;
    var *spare;    /* variables of scopes that were left */
    size_t macros; /* made so far */
    builder *out;
    value block; /* of N_BLOCK */
    int64_t now_s;
    struct kept *kept; /* documents that values point into */
    enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;
};

/* jinja_exec.c */
void mlxd_jinja_exec(run *r, const node *list);
value mlxd_jinja_call_macro(run *r, const macro *m, const args *a);
/* Keeps the first error with the place r->here. */
void mlxd_jinja_fail(run *r, mlxd_err err, const char *fmt, ...) MLXD_PRINTF(3, 4);
/* The error text for a place in the source. */
mlxd_err mlxd_jinja_explain(const mlxd_jinja *t, size_t at, mlxd_err err, const char *text,
                            mlxd_why *why);
/* The conversation is refused: INVALID with this text alone. */
void mlxd_jinja_reject(run *r, const char *fmt, ...) MLXD_PRINTF(2, 3);
/* Takes `doc`: it is closed when the run ends. */
void mlxd_jinja_keep(run *r, mlxd_json_doc *doc);
/* Sets a variable. */
void mlxd_jinja_set(run *r, const char *name, value v);
/* Accounts for `n` units of work; false: the run has failed, or does now. */
bool mlxd_jinja_step(run *r, size_t n);
/* Zeroed; NULL: failed. */
void *mlxd_jinja_new(run *r, size_t count, size_t size);

/* jinja_value.c */
#define NONE ((value){.kind = K_NONE})
#define UNDEFINED ((value){.kind = K_UNDEFINED})
#define ABSENT ((value){.kind = K_ABSENT})
static inline value mlxd_jinja_bool(bool b) {
    return (value){.kind = K_BOOL, .as.b = b};
}
static inline value mlxd_jinja_int(int64_t i) {
    return (value){.kind = K_INT, .as.i = i};
}
static inline value mlxd_jinja_float(double f) {
    return (value){.kind = K_FLOAT, .as.f = f};
}
static inline value mlxd_jinja_of_string(const string *s) {
    return s ? (value){.kind = K_STRING, .as.s = s} : UNDEFINED;
}
/* LIST, TUPLE, RANGE, VIEW, ITERATOR */
static inline bool mlxd_jinja_is_seq(value v) {
    return v.kind >= K_LIST && v.kind <= K_ITERATOR;
}
value mlxd_jinja_of_json(run *r, const mlxd_json *v);
seq *mlxd_jinja_seq(run *r, size_t cap); /* NULL: failed */
void mlxd_jinja_push(run *r, seq *s, value v);
value mlxd_jinja_of_seq(seq *s, value_kind k);
value mlxd_jinja_tuple2(run *r, value a, value b);
/* An iterator over `s`, which prints as `title`. */
value mlxd_jinja_iterator(seq *s, const char *title);
bool mlxd_jinja_truth(value v);
const char *mlxd_jinja_type(value v); /* as Python names it: "str", "NoneType" */
bool mlxd_jinja_equal(run *r, value a, value b);
/* <0, 0, >0; fails when the two have no order. */
int mlxd_jinja_order(run *r, value a, value b, const char *op);
/* The items that a loop over `v` would see; NULL: failed. */
seq *mlxd_jinja_items(run *r, value v);
bool mlxd_jinja_length(run *r, value v, size_t *out); /* false: failed */
bool mlxd_jinja_contains(run *r, value container, value v);
value mlxd_jinja_attr(run *r, value v, const string *name); /* v.name */
value mlxd_jinja_item(run *r, value v, value key);          /* v[key] */
value mlxd_jinja_slice(run *r, value v, value start, value stop, value step);
/* An operation on an undefined value: says what is missing. */
void mlxd_jinja_fail_undefined(run *r, value v);
/* Whole numbers: bool counts. */
bool mlxd_jinja_get_int(value v, int64_t *out);
bool mlxd_jinja_get_number(value v, double *out);

/* jinja_dict.c */
dict *mlxd_jinja_dict_new(run *r);
void mlxd_jinja_dict_set(run *r, dict *d, value key, value v);
bool mlxd_jinja_dict_get(run *r, const dict *d, value key, value *out);
/* By a text; needs no run, so that a missing key costs nothing. */
const value *mlxd_jinja_dict_find(const dict *d, mlxd_slice key);
uint64_t mlxd_jinja_hash(run *r, value v, unsigned depth);

/* jinja_text.c */
void mlxd_jinja_put(builder *b, const void *data, size_t len, bool trusted);
void mlxd_jinja_put_str(builder *b, const char *s);                            /* trusted */
void mlxd_jinja_put_part(builder *b, const string *s, size_t from, size_t to); /* bytes */
void mlxd_jinja_put_string(builder *b, const string *s);
const string *mlxd_jinja_built(builder *b);                          /* NULL: failed */
const string *mlxd_jinja_str(run *r, mlxd_slice text, bool trusted); /* text is lent */
const string *mlxd_jinja_part(run *r, const string *s, size_t from, size_t to);
bool mlxd_jinja_trusted_at(const string *s, size_t at);
bool mlxd_jinja_same(const string *a, const string *b);
static inline mlxd_slice mlxd_jinja_bytes(const string *s) {
    return (mlxd_slice){s->data, s->len};
}
/* Offset of code point `n` (at most s->chars). */
size_t mlxd_jinja_offset(const string *s, size_t n);
/* First occurrence at or behind `from`; SIZE_MAX: none. */
size_t mlxd_jinja_find(const string *s, const string *what, size_t from);
bool mlxd_jinja_is_space(uint32_t cp);
enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };
/* `chars` NULL: white space. */
const string *mlxd_jinja_strip(run *r, const string *s, const string *chars, int sides);
typedef enum letter_case { CASE_LOWER, CASE_UPPER, CASE_TITLE, CASE_CAPITAL } letter_case;
const string *mlxd_jinja_case(run *r, const string *s, letter_case how, bool words);
const string *mlxd_jinja_replace(run *r, const string *s, const string *old, const string *with,
                                 int64_t count);

const string *mlxd_jinja_mark_safe(run *r, const string *s);
const string *mlxd_jinja_escape(run *r, const string *s);

/* jinja_print.c */
void mlxd_jinja_print(builder *b, value v);                /* str(v) */
void mlxd_jinja_repr(builder *b, value v, unsigned depth); /* repr(v) */
const string *mlxd_jinja_to_string(run *r, value v);       /* str(v); NULL: failed */
typedef struct json_style {
    const string *item, *key; /* separators */
    const string *indent;     /* of one level; NULL: all on one line */
    bool ascii, sorted;
} json_style;
void mlxd_jinja_json(builder *b, value v, const json_style *style, unsigned depth);
#define MLXD_JINJA_FLOAT 40
void mlxd_jinja_format_float(double f, char out[MLXD_JINJA_FLOAT]);

/* jinja_eval.c */
value mlxd_jinja_eval(run *r, const node *n);
value mlxd_jinja_lookup(run *r, const string *name);
void mlxd_jinja_assign(run *r, const string *name, value v);

/* jinja_op.c */
value mlxd_jinja_binary(run *r, op_code o, value a, value b);
bool mlxd_jinja_compare(run *r, op_code o, value a, value b);

/* jinja_call.c */
value mlxd_jinja_call(run *r, value callee, const args *a);
value mlxd_jinja_call_builtin(run *r, const builtin *b, value self, const args *a);
const builtin *mlxd_jinja_find_row(const builtin *rows, size_t count, mlxd_slice name);
const builtin *mlxd_jinja_find_global(mlxd_slice name);

/* jinja_filter.c, jinja_filter_seq.c, jinja_test.c, jinja_method.c */
const builtin *mlxd_jinja_find_filter(mlxd_slice name);
const builtin *mlxd_jinja_find_filter_seq(mlxd_slice name);
const builtin *mlxd_jinja_find_test(mlxd_slice name);
const builtin *mlxd_jinja_find_method(value v, mlxd_slice name);
value mlxd_jinja_filter(run *r, const builtin *f, const string *name, value v, const args *a);

/* jinja_time.c: strftime in the C locale; false: a directive that is not known. */
bool mlxd_jinja_strftime(builder *b, mlxd_slice format, int64_t now_s);

/* jinja_parse.c */
#define MLXD_JINJA_DEPTH 600 /* nested evaluations of a run: up to 300 KiB of stack */
#define MLXD_JINJA_NEST 100  /* nested data that is printed or compared; nested expressions */

#endif
