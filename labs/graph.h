/* graph.h - the graph of a GPT-2 whose edges labs/edges.c chooses among, and its files.
 *
 * A writer (the input, a head a1.h2, an MLP m1) adds to the residual stream; a reader (the q, k or
 * v of a head, an MLP, the logits) reads the sum of all writers below it. An edge is such a pair.
 * Names and files are those of EAP-IG (Hanna et al. 2024), which MIB has too. */
#ifndef GRAPH_H
#define GRAPH_H

#include "lab.h"

typedef char Name[40];
typedef struct { Name name; int writer, owner; } Edge;  /* owner: the writer that the reader is */
typedef struct {                                        /* part of; n_writers of the logits */
    MiShape s;
    int     n_writers, n_readers, n_edges;
    int    *first;              /* [n_readers + 1] edges into reader v: first[v] + u, of writer u */
    Edge   *edge, **by_name;
    double *score;              /* [n_edges] */
    char   *in;                 /* [n_edges] 1: in the circuit */
} Graph;

static inline void name_node(const Graph *g, int u, Name name)
{
    int H = g->s.n_head, l = (u - 1) / (H + 1), h = (u - 1) % (H + 1);
    if (u == 0 || u == g->n_writers) strcpy(name, u ? "logits" : "input");
    else if (h < H) snprintf(name, sizeof(Name), "a%d.h%d", l, h);
    else snprintf(name, sizeof(Name), "m%d", l);
}

static inline int compare_names(const void *a, const void *b)
{
    return strcmp((*(Edge *const *)a)->name, (*(Edge *const *)b)->name);
}

/* Readers: of each layer q of its heads, k, v, then its MLP; the logits. */
static inline Graph graph_of(MiShape s)
{
    int   L = s.n_layer, H = s.n_head;
    Graph g = {.s = s, .n_writers = 1 + L * (H + 1), .n_readers = L * (3 * H + 1) + 1};
    Name  from, to;
    g.first = must(calloc(g.n_readers + 1, sizeof *g.first));
    for (int v = 0; v < g.n_readers; v++) {
        int l = v / (3 * H + 1), place = v % (3 * H + 1), is_mlp = place == 3 * H;
        int below = 1 + l * (H + 1) + (is_mlp ? H : 0), owner = below + (is_mlp ? 0 : place % H);
        g.first[v + 1] = g.n_edges + below;
        g.edge = must(realloc(g.edge, g.first[v + 1] * sizeof *g.edge));
        name_node(&g, owner, to);
        for (int u = 0; u < below; u++) {
            Edge *e = &g.edge[g.n_edges++];
            *e = (Edge){.writer = u, .owner = owner};
            name_node(&g, u, from);
            int n = snprintf(e->name, sizeof(Name), "%.16s->%.16s", from, to);
            if (*to == 'a') snprintf(e->name + n, 4, "<%c>", "qkv"[place / H]);
        }
    }
    g.score = must(calloc(g.n_edges, sizeof *g.score));
    g.in = must(calloc(g.n_edges, 1));
    g.by_name = must(calloc(g.n_edges, sizeof *g.by_name));
    for (int e = 0; e < g.n_edges; e++) g.by_name[e] = &g.edge[e];
    qsort(g.by_name, g.n_edges, sizeof *g.by_name, compare_names);
    return g;
}

static inline void free_graph(Graph *g)
{
    free(g->first);
    free(g->edge);
    free(g->by_name);
    free(g->score);
    free(g->in);
}

static inline int edge_of(const Graph *g, const char *name, const char *path)
{
    Edge  one, *key = &one;
    snprintf(one.name, sizeof(Name), "%s", name);
    Edge **e = bsearch(&key, g->by_name, g->n_edges, sizeof *g->by_name, compare_names);
    if (!e) refuse(1, "%s: this model has no edge \"%.80s\"", path, name);
    return (int)(*e - g->edge);
}

static inline int is_node(const Graph *g, const char *key)
{
    Name name;
    for (int u = 0; u <= g->n_writers; u++)
        if (name_node(g, u, name), !strcmp(name, key)) return 1;
    return 0;
}

static inline int member(const MiJson *json, int object, const char *key)
{
    for (int i = object + 1; i < json->n && object >= 0; i++)
        if (json->at[i].parent == object && json->at[i].key && !strcmp(json->at[i].key, key))
            return i;
    return -1;
}

/* {"tables": {"edges": {"rows": ["input->m0", ...], "values": [[0.5], ...]}}} of ./mi --json; of
 * "attribution" with the other sign: what holds the answer up is positive. */
static inline void read_table(Graph *g, char *seen, const MiJson *json, const char *path)
{
    int tables = member(json, 0, "tables"), edges = member(json, tables, "attribution");
    int sign = edges < 0 ? 1 : -1, table = edges < 0 ? member(json, tables, "edges") : edges;
    int row = member(json, table, "rows"), value = member(json, table, "values");
    if (row < 0 || value < 0) refuse(1, "%s: no table of --edges or --attribute edges", path);
    const MiValue *end = json->at + json->n;
    const MiValue *name = &json->at[row + 1], *cell = &json->at[value + 1];
    for (; name < end && name->parent == row && name->type == '"'; name++, cell += 2) {
        int e = edge_of(g, name->text, path);
        if (end - cell < 2 || cell->parent != value || cell[1].type != '0' || seen[e])
            refuse(1, "%s: edge %s has no number, or two", path, g->edge[e].name);
        g->score[e] = sign * cell[1].number;
        seen[e] = 3;
    }
}

/* {"cfg": {"n_layers": 6, ...}, "nodes": {"m0": {"in_graph": true}, ...},
 *  "edges": {"input->m0": {"score": 0.5, "in_graph": true}, ...}}: nothing else is taken. */
static inline void read_circuit(Graph *g, char *seen, const MiJson *json, const char *path)
{
    const struct { const char *key; int is; char type; } cfg[] = {
        {"n_layers", g->s.n_layer, '0'}, {"n_heads", g->s.n_head, '0'},
        {"d_model", g->s.d_model, '0'}, {"parallel_attn_mlp", 0, 'f'}};
    int n_cfg = 0, e = 0;
    for (int i = 1; i < json->n; i++) {
        const MiValue *v = &json->at[i];
        int top = i, depth = 0, fine = 0;
        for (; json->at[top].parent > 0; top = json->at[top].parent) depth++;
        const char *key = v->key ? v->key : "[]", *part = json->at[top].key;
        if (!part) part = "a list";
        int nodes = !strcmp(part, "nodes"), edges = !strcmp(part, "edges");
        if (depth == 0) fine = v->type == '{' && (nodes || edges || !strcmp(part, "cfg"));
        else if (depth == 1 && edges) e = edge_of(g, key, path), fine = v->type == '{';
        else if (depth == 1 && nodes) fine = v->type == '{' && is_node(g, key);
        else if (depth == 2 && edges && v->type == '0' && !strcmp(key, "score"))
            g->score[e] = v->number, seen[e] |= 1, fine = 1;
        else if (depth == 2 && (v->type == 't' || v->type == 'f') && !strcmp(key, "in_graph")) {
            if (edges) g->in[e] = v->type == 't', seen[e] |= 2;
            fine = 1;
        } else for (int k = 0; depth == 1 && k < 4; k++)
            if (!strcmp(key, cfg[k].key)) {
                if (v->type != cfg[k].type || v->number != cfg[k].is)
                    refuse(1, "%s: %s is not this model's", path, key);
                fine = ++n_cfg;
            }
        if (!fine) refuse(1, "%s: \"%.80s\" in %.80s is not understood", path, key, part);
    }
    if (n_cfg < 4) refuse(1, "%s: cfg is not complete", path);
}

static inline void read_graph(Graph *g, const char *path)
{
    char  *seen = must(calloc(g->n_edges, 1));          /* 1: its score, 2: its in_graph */
    MiJson json;
    check(mi_json_read(&json, path));
    if (member(&json, 0, "tables") >= 0) read_table(g, seen, &json, path);
    else read_circuit(g, seen, &json, path);
    for (int e = 0; e < g->n_edges; e++)
        if (seen[e] != 3)
            refuse(1, "%s: edge %s is missing, or its score or in_graph", path, g->edge[e].name);
    mi_json_free(&json);
    free(seen);
}

static inline void write_graph(const Graph *g, const char *in, const char *path)
{
    FILE *out = fopen(path, "w");
    Name  name;
    if (!out) refuse(1, "%s: %s", path, strerror(errno));
    fprintf(out, "{\"cfg\": {\"n_layers\": %d, \"n_heads\": %d, \"parallel_attn_mlp\": false, "
            "\"d_model\": %d}, \"nodes\": {", g->s.n_layer, g->s.n_head, g->s.d_model);
    for (int u = 0; u <= g->n_writers; u++) {
        int is_in = u == g->n_writers;
        for (int e = 0; e < g->n_edges; e++) is_in |= in[e] && g->edge[e].writer == u;
        name_node(g, u, name);
        fprintf(out, "%s\"%s\": {\"in_graph\": %s}", u ? ", " : "", name, is_in ? "true" : "false");
    }
    for (int e = 0; e < g->n_edges; e++)
        fprintf(out, "%s\"%s\": {\"score\": %.9g, \"in_graph\": %s}", e ? ", " : "}, \"edges\": {",
                g->edge[e].name, g->score[e], in[e] ? "true" : "false");
    fprintf(out, "}}\n");
    if (ferror(out) | fclose(out)) refuse(1, "%s: cannot be written", path);
}

#endif
