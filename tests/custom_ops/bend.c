/* `mylib.Bend`: x * |x|, as a library of custom operators for ONNX Runtime.
 *
 * ONNX Runtime only ever appends to its table of functions and to its description of an operator, so that their first
 * entries can be declared here without its headers. */
#include <stddef.h>
#include <stdint.h>

typedef void *(*Function)();
enum { DIMENSIONS_COUNT = 61, DIMENSIONS = 62, ELEMENT_COUNT = 64, SHAPE_OF = 65, DATA_OF = 51, ADD_OPERATOR = 27 };
enum { NEW_DOMAIN = 26, ADD_DOMAIN = 28, INPUT_OF = 90, OUTPUT_OF = 91, RELEASE_SHAPE = 99, API_VERSION = 8, FLOAT = 1 };

typedef struct {
  const Function *(*get_api)(uint32_t version);
} ApiBase;
typedef struct Operator {
  uint32_t version;
  void *(*create)(const struct Operator *, const Function *api, const void *info);
  const char *(*name)(const struct Operator *);
  const char *(*provider)(const struct Operator *);
  int (*input_type)(const struct Operator *, size_t);
  size_t (*input_count)(const struct Operator *);
  int (*output_type)(const struct Operator *, size_t);
  size_t (*output_count)(const struct Operator *);
  void (*compute)(void *kernel, void *context);
  void (*destroy)(void *kernel);
  int (*input_kind)(const struct Operator *, size_t);
  int (*output_kind)(const struct Operator *, size_t);
  void *later[24];
} Operator;

static void *create(const Operator *op, const Function *api, const void *info) { return (void *)api; }
static const char *name(const Operator *op) { return "Bend"; }
static const char *provider(const Operator *op) { return NULL; }
static int type(const Operator *op, size_t index) { return FLOAT; }
static size_t one(const Operator *op) { return 1; }
static int required(const Operator *op, size_t index) { return 0; }
static void destroy(void *kernel) {}

static void compute(void *kernel, void *context) {
  const Function *api = kernel;
  const void *input = NULL;
  void *shape = NULL, *output = NULL;
  float *from = NULL, *to = NULL;
  size_t rank = 0, count = 0;
  int64_t sizes[16];
  api[INPUT_OF](context, (size_t)0, &input);
  api[SHAPE_OF](input, &shape);
  api[DIMENSIONS_COUNT](shape, &rank);
  api[DIMENSIONS](shape, sizes, rank);
  api[ELEMENT_COUNT](shape, &count);
  api[RELEASE_SHAPE](shape);
  api[OUTPUT_OF](context, (size_t)0, sizes, rank, &output);
  api[DATA_OF](input, &from);
  api[DATA_OF](output, &to);
  for (size_t i = 0; i < count; i++) to[i] = from[i] * (from[i] < 0 ? -from[i] : from[i]);
}

static const Operator BEND = {API_VERSION, create, name, provider, type, one, type, one, compute, destroy, required, required};

void *RegisterCustomOps(void *options, const ApiBase *base) {
  const Function *api = base->get_api(API_VERSION);
  void *domain = NULL;
  void *status = api[NEW_DOMAIN]("mylib", &domain);
  if (status == NULL) status = api[ADD_OPERATOR](domain, &BEND);
  return status == NULL ? api[ADD_DOMAIN](options, domain) : status;
}
