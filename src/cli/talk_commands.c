/* talk_commands.c - what a line that begins with "/" does in a conversation. See talk.h. */
#include "cli/talk.h"

#include "base/mem.h"
#include "serve/timings.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef mlxd_err command_fn(mlxd_talk *c, const char *arg, mlxd_why *why);

static command_fn do_clear, do_exit, do_help, do_load, do_nothink, do_regenerate, do_save, do_set,
    do_show, do_system, do_think;

static const struct command {
    const char *name, *args, *help;
    command_fn *run;
} commands[] = {
    {"help", "", "this list", do_help},
    {"clear", "", "forget the conversation; the system message stays", do_clear},
    {"system", "[TEXT]", "set the system message, or show it; \"\" removes it", do_system},
    {"set", "[NAME VALUE]", "change a setting, or show all", do_set},
    {"show", "", "the model, the settings, how full the context is, how fast it was", do_show},
    {"think", "", "let the model think before it answers, where its template has a switch",
     do_think},
    {"nothink", "", "let it answer at once", do_nothink},
    {"regenerate", "", "answer the last message again", do_regenerate},
    {"save", "FILE", "write the conversation into a file (JSON)", do_save},
    {"load", "FILE", "go on with a conversation from a file", do_load},
    {"exit", "", "end (so do Ctrl-D, and Ctrl-C twice)", do_exit},
};

/* Other names that people try. */
static const char *const also[][2] = {{"quit", "exit"}, {"bye", "exit"}, {"?", "help"}};

#define AT(member) offsetof(mlxd_sampling, member)

/* What can be set of the sampling; real numbers but for top_k. */
static const struct setting {
    const char *name;
    size_t offset;
} settings[] = {
    {"temperature", AT(temperature)},
    {"top_p", AT(top_p)},
    {"min_p", AT(min_p)},
    {"repetition_penalty", AT(repetition_penalty)},
    {"presence_penalty", AT(presence_penalty)},
    {"frequency_penalty", AT(frequency_penalty)},
};

mlxd_err mlxd_talk_command(mlxd_talk *c, const char *line, mlxd_why *why) {
    size_t n = strcspn(line + 1, " \t\n");
    const char *arg = line + 1 + n, *name = line + 1;
    arg += strspn(arg, " \t\n");
    for (size_t i = 0; i < MLXD_COUNT_OF(also); i++)
        if (strlen(also[i][0]) == n && strncmp(name, also[i][0], n) == 0) {
            name = also[i][1];
            n = strlen(name);
        }
    for (size_t i = 0; i < MLXD_COUNT_OF(commands); i++)
        if (strlen(commands[i].name) == n && strncmp(name, commands[i].name, n) == 0)
            return commands[i].run(c, arg, why);
    mlxd_talk_say("/%.*s is no command; /help lists them. A message that begins with / needs a "
                  "blank before it.",
                  (int)MLXD_MIN(n, 40), name);
    return MLXD_OK;
}

static mlxd_err do_help(mlxd_talk *c, const char *arg, mlxd_why *why) {
    (void)c;
    (void)arg;
    (void)why;
    for (size_t i = 0; i < MLXD_COUNT_OF(commands); i++) {
        char left[40];
        snprintf(left, sizeof left, "/%s %s", commands[i].name, commands[i].args);
        mlxd_talk_say("  %-20s %s", left, commands[i].help);
    }
    mlxd_talk_say("A line that ends with \\ goes on in the next one; \"\"\" begins and ends a text "
                  "of several lines.\nCtrl-C stops an answer.");
    return MLXD_OK;
}

static mlxd_err do_exit(mlxd_talk *c, const char *arg, mlxd_why *why) {
    (void)arg;
    (void)why;
    c->done = true;
    return MLXD_OK;
}

static mlxd_err do_clear(mlxd_talk *c, const char *arg, mlxd_why *why) {
    (void)arg;
    (void)why;
    mlxd_conversation_cut(&c->said, mlxd_conversation_has_system(&c->said));
    mlxd_talk_say("(the conversation begins anew)");
    return MLXD_OK;
}

static mlxd_err do_system(mlxd_talk *c, const char *arg, mlxd_why *why) {
    (void)why;
    bool has = mlxd_conversation_has_system(&c->said);
    if (!*arg && has) {
        mlxd_talk_say("%s", mlxd_buf_str(&c->said.messages[0].content));
    } else if (!*arg) {
        mlxd_talk_say("(there is no system message)");
    } else {
        const char *text = strcmp(arg, "\"\"") == 0 ? "" : arg;
        if (mlxd_conversation_set_system(&c->said, mlxd_slice_str(text)))
            mlxd_talk_say("(no memory for it)");
        else
            mlxd_talk_say(*text ? "(the system message is set)" : "(the system message is gone)");
    }
    return MLXD_OK;
}

static void switch_thinking(mlxd_talk *c, bool on) {
    mlxd_json_doc *doc;
    mlxd_why why = {0};
    if (!mlxd_chat_mentions(c->local->host.chat, "enable_thinking")) {
        mlxd_talk_say("(this model's chat template has no switch for thinking)");
        return;
    }
    if (mlxd_json_parse(&doc, mlxd_slice_str(on ? "true" : "false"), 0, &why)) {
        mlxd_talk_say("%s", why.text);
        return;
    }
    mlxd_json_close(c->thinking);
    c->thinking = doc;
    mlxd_talk_say(on ? "(it thinks before it answers)" : "(it answers at once)");
}

static mlxd_err do_think(mlxd_talk *c, const char *arg, mlxd_why *why) {
    (void)arg;
    (void)why;
    switch_thinking(c, true);
    return MLXD_OK;
}

static mlxd_err do_nothink(mlxd_talk *c, const char *arg, mlxd_why *why) {
    (void)arg;
    (void)why;
    switch_thinking(c, false);
    return MLXD_OK;
}

/* ---- settings ---- */

static double get_real(const mlxd_sampling *s, const struct setting *row) {
    double v;
    memcpy(&v, (const char *)s + row->offset, sizeof v);
    return v;
}

static void show_settings(const mlxd_talk *c) {
    for (size_t i = 0; i < MLXD_COUNT_OF(settings); i++)
        mlxd_talk_say("  %-20s %g", settings[i].name, get_real(&c->sampling, &settings[i]));
    mlxd_talk_say("  %-20s %d%s", "top_k", c->sampling.top_k,
                  c->sampling.top_k > 0 ? "" : " (all)");
    if (c->seeded)
        mlxd_talk_say("  %-20s %llu", "seed", (unsigned long long)c->sampling.seed);
    else
        mlxd_talk_say("  %-20s random", "seed");
    if (c->max_tokens)
        mlxd_talk_say("  %-20s %u", "max_tokens", c->max_tokens);
    else
        mlxd_talk_say("  %-20s what the context holds", "max_tokens");
}

static bool is_name(const char *name, size_t n, const char *known) {
    return strlen(known) == n && strncmp(name, known, n) == 0;
}

/* A whole number 0 .. max; "random" and "none" are 0 and not `given`. */
static bool read_whole(const char *text, uint64_t max, uint64_t *out, bool *given) {
    char *end;
    *out = 0;
    *given = strcmp(text, "random") != 0 && strcmp(text, "none") != 0;
    if (!*given)
        return true;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno && *out <= max;
}

/* False: `why` says what is wrong. */
static bool set(mlxd_talk *c, const char *name, size_t n, const char *value, mlxd_why *why) {
    mlxd_sampling s = c->sampling;
    const struct setting *row = NULL;
    uint64_t whole;
    bool given;
    char *end;
    for (size_t i = 0; i < MLXD_COUNT_OF(settings); i++)
        if (is_name(name, n, settings[i].name))
            row = &settings[i];
    (void)mlxd_fail(why, MLXD_ERR_INVALID, "expected a number, got \"%.40s\"", value);
    if (is_name(name, n, "seed")) {
        if (!read_whole(value, UINT64_MAX, &s.seed, &given))
            return false;
        c->seeded = given;
    } else if (is_name(name, n, "max_tokens")) {
        if (!read_whole(value, MLXD_LIMIT_CONTEXT, &whole, &given))
            return false;
        c->max_tokens = (uint32_t)whole;
    } else if (is_name(name, n, "top_k")) {
        if (!read_whole(value, MLXD_LIMIT_VOCAB, &whole, &given))
            return false;
        s.top_k = (int32_t)whole;
    } else if (row) {
        double v = strtod(value, &end);
        if (end == value || *end)
            return false;
        memcpy((char *)&s + row->offset, &v, sizeof v);
    } else {
        (void)mlxd_fail(why, MLXD_ERR_INVALID, "no such setting; /set lists them");
        return false;
    }
    if (mlxd_sampling_check(&s, 1, NULL, why))
        return false;
    c->sampling = s;
    return true;
}

static mlxd_err do_set(mlxd_talk *c, const char *arg, mlxd_why *why) {
    size_t n = strcspn(arg, " \t");
    const char *value = arg + n + strspn(arg + n, " \t");
    mlxd_why problem = {0};
    (void)why;
    if (!*arg)
        show_settings(c);
    else if (!*value)
        mlxd_talk_say("/set needs a name and a value, as in /set temperature 0.2");
    else if (!set(c, arg, n, value, &problem))
        mlxd_talk_say("%.*s: %s", (int)MLXD_MIN(n, 40), arg, problem.text);
    return MLXD_OK;
}

static mlxd_err do_show(mlxd_talk *c, const char *arg, mlxd_why *why) {
    const mlxd_host *h = &c->local->host;
    (void)arg;
    (void)why;
    mlxd_talk_say("  %-20s %s", "model", c->local->o->model);
    mlxd_talk_say("  %-20s %s", "reasoning", mlxd_reasoning_name(h->reasoning));
    if (mlxd_chat_mentions(h->chat, "enable_thinking")) {
        bool on = true;
        if (c->thinking && mlxd_json_get_bool(mlxd_json_root(c->thinking), &on))
            on = true;
        mlxd_talk_say("  %-20s %s", "thinking",
                      !c->thinking ? "as the template has it"
                      : on         ? "on"
                                   : "off");
    }
    mlxd_talk_say("  %-20s %s, %u threads", "computes with", h->kernels->isa,
                  mlxd_driver_threads(h->driver));
    mlxd_talk_say("  %-20s %zu messages", "conversation", c->said.count);
    mlxd_talk_say("  %-20s %u of %u tokens", "context", c->last ? c->last->n_tokens : 0,
                  c->local->context);
    if (c->last) {
        mlxd_speed s = mlxd_timings_speed(c->last);
        mlxd_talk_say("  %-20s %u tokens, %u of them cached, %.1f tokens/s", "last prompt",
                      c->last->n_prompt, c->last->cached, s.prompt_per_second);
        mlxd_talk_say("  %-20s %u tokens, %.1f tokens/s", "last answer",
                      mlxd_generation_tokens(c->last->generation), s.predicted_per_second);
    }
    show_settings(c);
    return MLXD_OK;
}

/* ---- the conversation ---- */

static mlxd_err do_regenerate(mlxd_talk *c, const char *arg, mlxd_why *why) {
    size_t n = c->said.count;
    (void)arg;
    if (n > 0 && c->said.messages[n - 1].role == MLXD_ROLE_ASSISTANT)
        n--;
    if (n == 0 || c->said.messages[n - 1].role != MLXD_ROLE_USER) {
        mlxd_talk_say("(there is no message to answer)");
        return MLXD_OK;
    }
    mlxd_conversation_cut(&c->said, n);
    return mlxd_talk_answer(c, why);
}

/* The file that is meant; a leading ~/ is the home folder. False: none, or too long. */
static bool read_path(const char *arg, char *out, size_t size) {
    const char *home = getenv("HOME");
    bool in_home = strncmp(arg, "~/", 2) == 0 && home;
    int n = snprintf(out, size, "%s%s", in_home ? home : "", in_home ? arg + 1 : arg);
    while (n > 0 && (size_t)n < size && strchr(" \t", out[n - 1]))
        out[--n] = 0;
    return n > 0 && (size_t)n < size;
}

static mlxd_err do_save(mlxd_talk *c, const char *arg, mlxd_why *why) {
    char path[4096];
    mlxd_why problem = {0};
    (void)why;
    if (!read_path(arg, path, sizeof path))
        mlxd_talk_say("/save needs the name of a file");
    else if (mlxd_conversation_save(&c->said, path, c->local->o->model, &problem))
        mlxd_talk_say("%s", problem.text);
    else
        mlxd_talk_say("(%zu messages saved)", c->said.count);
    return MLXD_OK;
}

/* Shows how a conversation that was loaded ends. */
static mlxd_err show_last(mlxd_talk *c, mlxd_why *why) {
    const mlxd_message *m = &c->said.messages[c->said.count - 1];
    mlxd_err err = MLXD_OK;
    if (m->role == MLXD_ROLE_ASSISTANT) {
        err = mlxd_screen_write(&c->screen, true, (mlxd_slice){m->reasoning.data, m->reasoning.len},
                                why);
        if (!err)
            err = mlxd_screen_write(&c->screen, false,
                                    (mlxd_slice){m->content.data, m->content.len}, why);
        if (!err)
            err = mlxd_screen_end(&c->screen, why);
    }
    return err;
}

static mlxd_err do_load(mlxd_talk *c, const char *arg, mlxd_why *why) {
    char path[4096];
    mlxd_why problem = {0};
    if (!read_path(arg, path, sizeof path)) {
        mlxd_talk_say("/load needs the name of a file");
    } else if (mlxd_conversation_load(&c->said, path, &problem)) {
        mlxd_talk_say("%s", problem.text);
    } else {
        mlxd_talk_say("(%zu messages loaded)", c->said.count);
        return c->said.count > 0 ? show_last(c, why) : MLXD_OK;
    }
    return MLXD_OK;
}
